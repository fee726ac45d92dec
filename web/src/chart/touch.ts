// Fingers on the chart: a tap places the cursor, a horizontal drag selects a range, a vertical one scrolls the page.
// uPlot itself only listens to the mouse.
import type uPlot from "uplot";

const DRAG_PX = 10; // below, a finger only trembled

export function touchPlugin(): uPlot.Plugin {
  return {
    hooks: {
      ready: [
        (u) => {
          const over = u.over;
          let startX: number | null = null;
          let dragging = false;
          over.style.touchAction = "pan-y";
          const leftOf = (event: PointerEvent) => {
            const box = over.getBoundingClientRect();
            return Math.max(0, Math.min(box.width, event.clientX - box.left));
          };
          over.addEventListener("pointerdown", (event) => {
            if (event.pointerType !== "touch") return;
            startX = leftOf(event);
            dragging = false;
          });
          over.addEventListener("pointermove", (event) => {
            if (event.pointerType !== "touch" || startX === null) return;
            const x = leftOf(event);
            dragging ||= Math.abs(x - startX) > DRAG_PX;
            u.setCursor({ left: x, top: u.over.clientHeight / 2 });
            if (dragging) u.setSelect({ left: Math.min(x, startX), width: Math.abs(x - startX), top: 0, height: over.clientHeight }, false);
          });
          over.addEventListener("pointerup", (event) => {
            if (event.pointerType !== "touch" || startX === null) return;
            if (dragging) u.setSelect({ ...u.select }, true);
            startX = null;
          });
          over.addEventListener("pointercancel", () => {
            startX = null; // the browser took the gesture for scrolling
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          });
        },
      ],
    },
  };
}
