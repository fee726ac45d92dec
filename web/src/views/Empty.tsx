// What stands where there is nothing yet, and what to do about it.
import { filterStatus, openFleet, search } from "../state/actions";
import { useApp } from "../state/store";
import { followLink } from "./link";

export function NoDevices() {
  return (
    <div className="card empty" data-testid="no-devices">
      <h2>No device has sent anything yet</h2>
      <p>Start an agent on a device and point it at this collector:</p>
      <pre>
        <code>devmon-agent run --device NAME --mqtt mqtt://HOST:PORT</code>
      </pre>
      <p>
        <code>HOST:PORT</code> is the MQTT address in the line that starts with <code>ready</code> in the collector’s output. The device appears here by
        itself with its first message.
      </p>
    </div>
  );
}

export function NothingFound() {
  const q = useApp((s) => s.url.q);
  const status = useApp((s) => s.url.status);
  const clear = () => {
    search("");
    filterStatus("");
  };
  return (
    <div className="card empty">
      <h2>
        No {status === "" ? "" : `${status} `}device{q === "" ? "" : ` that fits “${q}”`}
      </h2>
      <button type="button" onClick={clear}>
        Show all devices
      </button>
    </div>
  );
}

export function NoSuchDevice({ id }: { id: string }) {
  return (
    <div className="card empty" data-testid="no-such-device">
      <h1>The collector knows no device “{id}”</h1>
      <p>Check the name in the address. If the device is new, it appears here with its first message.</p>
      <p>
        <a href="./" onClick={followLink(openFleet)}>
          Back to the fleet
        </a>
      </p>
    </div>
  );
}
