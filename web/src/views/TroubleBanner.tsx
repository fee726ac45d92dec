// What to say when the collector does not answer, or answers that it cannot.
// Promises: since when, why, and when the next try is; `role=alert` once, not at every try.
import { retryNow } from "../state/actions";
import { useApp } from "../state/store";
import { useSecondsUntil } from "../state/ticker";
import { formatMoment } from "../time/age";

export function TroubleBanner() {
  const trouble = useApp((s) => s.trouble);
  const hasData = useApp((s) => (s.url.device === null ? s.fleet !== null : (s.device?.detail ?? null) !== null));
  const seconds = useSecondsUntil(trouble?.nextTryAt ?? null);
  if (trouble === null) return null;
  const since = formatMoment(trouble.since, Date.now());
  return (
    <div className="banner" data-testid="trouble" data-kind={trouble.kind}>
      <p role="alert">
        <strong>{trouble.kind === "unreachable" ? `Collector unreachable since ${since}` : `The collector refuses since ${since}`}</strong>{" "}
        <span>
          {trouble.message}.{hasData ? " What you see is the last it said." : ""}
        </span>
      </p>
      <p className="banner-retry">
        <span className="num">{seconds === null ? "trying…" : `next try in ${seconds} s`}</span>
        <button type="button" onClick={retryNow}>
          Try now
        </button>
      </p>
    </div>
  );
}
