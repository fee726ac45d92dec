// The page: head, banner, and whichever of fleet and device the URL names.
// Promises: the title tells the device; losing the collector greys what is shown and keeps it.
import { useEffect } from "react";
import { openFleet } from "../state/actions";
import { useApp } from "../state/store";
import { Device } from "./Device";
import { Fleet } from "./Fleet";
import { Footer } from "./Footer";
import { ThemeToggle } from "./ThemeToggle";
import { TokenForm } from "./TokenForm";
import { TroubleBanner } from "./TroubleBanner";
import { followLink } from "./link";

export function App() {
  const device = useApp((s) => s.url.device);
  const token = useApp((s) => s.token);
  const lost = useApp((s) => s.trouble !== null);

  useEffect(() => {
    document.title = device === null ? "devmon" : `${device} · devmon`;
  }, [device]);

  return (
    <>
      <a className="skip" href="#main">
        Skip to content
      </a>
      <header className="top">
        <a className="brand" href="./" onClick={followLink(openFleet)} aria-current={device === null ? "page" : undefined}>
          <Logo />
          devmon
        </a>
        <ThemeToggle />
      </header>
      <TroubleBanner />
      <main id="main" tabIndex={-1} className={lost ? "is-lost" : undefined}>
        {token !== "unasked" ? <TokenForm refused={token === "refused"} /> : device === null ? <Fleet /> : <Device key={device} id={device} />}
      </main>
      <Footer />
    </>
  );
}

function Logo() {
  return (
    <svg className="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M4 18h6l3-9 5 15 3.5-9H28" />
    </svg>
  );
}
