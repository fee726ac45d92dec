// The device's sources with their state, and on top those that need a person.
// Promises: a reason is shown as the agent gave it; `unavailable` is no fault and is not dressed as one.
import type { DeviceStatus, Source } from "../api/types";
import { formatSeconds } from "../format/value";
import { Age, State } from "./Marks";

const isProblem = (source: Source) => source.state === "failing" || source.state === "quarantined";

export function Problems({ sources }: { sources: readonly Source[] }) {
  const ill = sources.filter(isProblem);
  if (ill.length === 0) return null;
  return (
    <ul className="problems" aria-label="Sources with problems">
      {ill.map((source) => (
        <li key={source.name}>
          <strong>{source.name}</strong> <State state={source.state} /> <span className="reason">{source.reason ?? "no reason given"}</span>
        </li>
      ))}
    </ul>
  );
}

export function Sources({ sources, status }: { sources: readonly Source[]; status: DeviceStatus }) {
  const past = status !== "online";
  return (
    <section className={`card sources${past ? " is-past" : ""}`} aria-label="Sources">
      <h2>
        Sources <span className="num count">{sources.length}</span>
        {past && <span className="count"> as last reported; the device is {status}</span>}
      </h2>
      {sources.length === 0 ? (
        <p className="muted">This publisher names no sources.</p>
      ) : (
        <ul>
          {sources.map((source) => (
            <li key={source.name} data-testid="source-row" data-source={source.name} data-state={source.state}>
              <span className="source-name">{source.name}</span>
              <State state={source.state} />
              <span className="num muted source-interval">{!source.interval_ms ? "" : `every ${formatSeconds(source.interval_ms / 1000)}`}</span>
              <span className="muted source-age">{source.last_ts === null ? "no sample yet" : <Age ts={source.last_ts} />}</span>
              {source.reason !== null && <span className="source-reason muted">{source.reason}</span>}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
