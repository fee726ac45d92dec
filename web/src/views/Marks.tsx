// Small signs used all over: states as a shape and a word (never colour alone), and ages that count by themselves.
import { useAge } from "../state/ticker";
import type { DeviceStatus, SourceState } from "../api/types";
import { formatDateTime } from "../time/age";

type Tone = "good" | "warn" | "bad" | "mute";

const STATUS_TONE: Record<DeviceStatus, Tone> = { online: "good", stale: "warn", offline: "bad" };
const SOURCE_TONE: Record<SourceState, Tone> = { ok: "good", unavailable: "mute", stopped: "mute", failing: "warn", quarantined: "bad" };

/** Round = well, diamond = look here, square = broken, ring = nothing to expect. */
function Dot({ tone }: { tone: Tone }) {
  return (
    <svg className={`dot tone-${tone}`} viewBox="0 0 12 12" aria-hidden="true">
      {tone === "good" && <circle cx="6" cy="6" r="4.5" />}
      {tone === "warn" && <path d="M6 .8 11.2 6 6 11.2.8 6Z" />}
      {tone === "bad" && <rect x="1.5" y="1.5" width="9" height="9" rx="1.5" />}
      {tone === "mute" && <circle cx="6" cy="6" r="3.8" className="ring" />}
    </svg>
  );
}

export function Status({ status }: { status: DeviceStatus }) {
  return (
    <span className={`status tone-${STATUS_TONE[status]}`}>
      <Dot tone={STATUS_TONE[status]} />
      {status}
    </span>
  );
}

export function State({ state }: { state: SourceState }) {
  const tone = SOURCE_TONE[state] ?? "mute";
  return (
    <span className={`status tone-${tone}`}>
      <Dot tone={tone} />
      {state}
    </span>
  );
}

export function Age({ ts }: { ts: number }) {
  const text = useAge(ts);
  return (
    <time className="num age" dateTime={new Date(ts).toISOString()} title={formatDateTime(ts)}>
      {text}
    </time>
  );
}
