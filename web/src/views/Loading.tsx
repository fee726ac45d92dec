// Waiting for a first answer. Shown late, so that a quick answer does not flash it.
export function Loading({ what }: { what: string }) {
  return (
    <p className="loading" role="status">
      Loading {what}…
    </p>
  );
}
