// Pages of a table: at most 25 rows each, so that a screen reader or a thumb gets through one.
import { useState } from "react";

export const ROWS_PER_PAGE = 25;

export interface Paging {
  page: number;
  pages: number;
  first: number;
  turn: (to: number) => void;
}

export function usePaging(rows: number): Paging {
  const [wanted, setWanted] = useState(0);
  const pages = Math.max(1, Math.ceil(rows / ROWS_PER_PAGE));
  const page = Math.min(wanted, pages - 1); // a refresh may have shortened the list
  return { page, pages, first: page * ROWS_PER_PAGE, turn: setWanted };
}

export function Pager({ page, pages, turn }: Paging) {
  if (pages === 1) return null;
  return (
    <nav className="pager" aria-label="Table pages">
      <button type="button" aria-disabled={page === 0} onClick={() => turn(Math.max(0, page - 1))}>
        Newer
      </button>
      <span className="num">
        page {page + 1} of {pages}
      </span>
      <button type="button" aria-disabled={page === pages - 1} onClick={() => turn(Math.min(pages - 1, page + 1))}>
        Older
      </button>
    </nav>
  );
}
