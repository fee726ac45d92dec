// The collector in one line: its version, and what it has taken in and refused.
import type { StatusReply } from "../api/types";
import { formatZone } from "../time/age";
import { groupDigits } from "../format/value";
import { useApp } from "../state/store";

export function Footer() {
  const status = useApp((s) => (s.url.device === null ? s.status : null)); // only the fleet refreshes it
  const zone = formatZone(new Date().getTimezoneOffset());
  return (
    <footer className="foot">
      {status !== null && <CollectorLine {...status} />}
      <span>times in {zone}</span>
    </footer>
  );
}

function CollectorLine({ version, series, intake, store }: StatusReply) {
  const refused = Object.values(intake.rejected).reduce((a, b) => a + b, 0);
  return (
    <span className="num">
      collector {version} · {groupDigits(String(series))} series · {groupDigits(String(intake.samples))} samples taken in
      {refused > 0 && <> · {groupDigits(String(refused))} messages refused</>}
      {store.state !== "ok" && <strong> · store {store.state}{store.reason === null ? "" : `: ${store.reason}`}</strong>}
    </span>
  );
}
