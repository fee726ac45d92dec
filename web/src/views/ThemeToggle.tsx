// The switch between light and dark.
import { toggleTheme, useTheme } from "../state/theme";

export function ThemeToggle() {
  const theme = useTheme();
  const other = theme === "dark" ? "light" : "dark";
  return (
    <button type="button" className="icon-button" data-testid="theme-toggle" aria-label={`Switch to ${other} theme`} title={`Switch to ${other} theme`} onClick={toggleTheme}>
      <svg viewBox="0 0 20 20" aria-hidden="true">
        {theme === "dark" ? (
          <path d="M10 5.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9ZM10 1v2M10 17v2M1 10h2M17 10h2M3.6 3.6 5 5M15 15l1.4 1.4M3.6 16.4 5 15M15 5l1.4-1.4" />
        ) : (
          <path d="M17 11.6A7.2 7.2 0 0 1 8.4 3a7.2 7.2 0 1 0 8.6 8.6Z" />
        )}
      </svg>
    </button>
  );
}
