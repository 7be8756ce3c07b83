// Takes four screenshots of a page: phone and desktop, light and dark.
//
//     node screenshots.mjs CHROMIUM URL DIRECTORY NAME [EXPRESSION]
//
// They are NAME-phone-light.png and so on. With an expression it waits until that is true in the
// page.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluate, openBrowser, resize, send, setScheme, until } from "./browser.mjs";

// A page that draws what it sees needs a while to see something.
const PATIENCE_MS = 120000;

const [program, url, directory, name, expression = "true"] = process.argv.slice(2);
await openBrowser(program);
await send("Page.enable");
await resize(1280, 800);
await send("Page.navigate", { url });
await until("the page is loaded", "document.readyState === 'complete'");
await until("the page shows what it must", expression, PATIENCE_MS);
for (const [device, width, height] of [["phone", 390, 700], ["desktop", 1280, 1000]]) {
  for (const scheme of ["light", "dark"]) {
    await resize(width, height);
    await setScheme(scheme);
    // A desktop shows what fits on its screen. A phone's page is longer: its first two screens.
    const length = await evaluate("document.documentElement.scrollHeight");
    const clip = {
      x: 0, y: 0, width, height: Math.min(length, device === "phone" ? 2 * height : height),
      // A phone has two dots for a pixel, of which a page of documents needs one.
      scale: device === "phone" ? 0.5 : 1,
    };
    const params = { captureBeyondViewport: true, clip };
    const { data } = await send("Page.captureScreenshot", params);
    writeFileSync(join(directory, `${name}-${device}-${scheme}.png`), Buffer.from(data, "base64"));
  }
}
process.exit(0);
