// The one timer that keeps the page fresh.
// Promises: one round at a time; `now()` replaces the round under way; no timer runs in a hidden tab, and a tab that comes
// back asks at once; failures back off, doubling up to 30 s, and one success returns to the usual pace.

const LONGEST_MS = 30_000;

export interface PollOptions {
  /** One round; resolves to whether it succeeded. Must not reject. */
  round: (signal: AbortSignal) => Promise<boolean>;
  everyMs: () => number;
  /** Told when the next try after a failure is due (unix ms). */
  onBackoff: (nextTryAt: number) => void;
}

export function backoffMs(everyMs: number, failures: number): number {
  return failures === 0 ? everyMs : Math.min(LONGEST_MS, Math.max(everyMs, 1_000) * 2 ** (failures - 1));
}

export class Poller {
  private timer: ReturnType<typeof setTimeout> | null = null;
  private running: AbortController | null = null;
  private failures = 0;

  constructor(private readonly options: PollOptions) {}

  start(): void {
    document.addEventListener("visibilitychange", this.onVisibility);
    this.now();
  }

  stop(): void {
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.halt();
  }

  /** Starts a round at once; what was under way is aborted. */
  now(): void {
    this.halt();
    void this.run();
  }

  private readonly onVisibility = (): void => {
    if (document.hidden) this.halt();
    else this.now();
  };

  private halt(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.running?.abort();
    this.running = null;
  }

  private async run(): Promise<void> {
    const own = new AbortController();
    this.running = own;
    const ok = await this.options.round(own.signal);
    if (this.running !== own) return; // superseded or halted meanwhile
    this.running = null;
    this.failures = ok ? 0 : this.failures + 1;
    const delay = backoffMs(this.options.everyMs(), this.failures);
    if (!ok) this.options.onBackoff(Date.now() + delay);
    if (!document.hidden) this.timer = setTimeout(() => this.now(), delay);
  }
}
