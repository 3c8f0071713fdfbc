// Drives one page of Chromium for tests/harness/browser.rs: reads a command a line from stdin, and answers each with a line.
// Ends with its stdin, and the browser with it.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, executable, options] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(module));
const { width, height, script, reducedMotion } = JSON.parse(options);

const browser = await chromium.launch({
  executablePath: executable,
  // as root it has no sandbox of its own; nothing but this machine is asked for anything
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    // a camera and a microphone that are made up, and a machine that has nothing but its loopback
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
  ],
});
const page = await browser.newPage({ viewport: { width, height }, reducedMotion });
if (script) await page.addInitScript(script);
const seen = { requests: [], changes: [], errors: [] };
page.on("request", (request) => {
  seen.requests.push(request.url());
  if (request.method() !== "GET") seen.changes.push(`${request.method()} ${new URL(request.url()).pathname}`);
});
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("console", (line) => {
  // a 404 is what a stream that is off answers
  if (line.type() === "error" && !line.text().startsWith("Failed to load resource")) seen.errors.push(line.text());
});

const commands = {
  open: ({ url }) => page.goto(url, { waitUntil: "domcontentloaded" }).then(() => null),
  evaluate: ({ code }) => page.evaluate(code),
  press: ({ key }) => page.keyboard.press(key).then(() => null),
  write: ({ text }) => page.keyboard.type(text).then(() => null),
  screenshot: ({ path }) => page.screenshot({ path }).then(() => null),
  seen: () => seen,
};

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
answer({ ready: browser.version() });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    answer({ value: (await commands[command.do](command)) ?? null });
  } catch (error) {
    answer({ error: String(error) });
  }
}
await browser.close();
