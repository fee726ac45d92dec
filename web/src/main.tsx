// The dashboard's entry: styles, theme before the first paint, then the page and the poller.
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/controls.css";
import "./styles/fleet.css";
import "./styles/device.css";
import "./styles/chart.css";
import { start } from "./state/actions";
import { applyTheme, readTheme } from "./state/theme";
import { App } from "./views/App";

applyTheme(readTheme());
createRoot(document.getElementById("root")!).render(<App />);
start();
