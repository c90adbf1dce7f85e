// The WebSocket to the server: messages in, "shown" and "paused" out, and a new attempt whenever it is lost.

const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 3000;

/** Read a message: length of the JSON (uint32), JSON, float32 arrays, all little-endian. */
export function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (message.image) {
    const n = message.image.shape.reduce((product, side) => product * side, 1);
    message.image.arrays.forEach((name, index) => {
      message.image[name] = new Float32Array(buffer, 4 + length + 4 * n * index, n);
    });
  }
  return message;
}

export class Connection {
  constructor(onMessage, onChange) {
    this.isOpen = false;
    this.onMessage = onMessage;
    this.onChange = onChange;
    this.retry = FIRST_RETRY_MS;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/socket`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.addEventListener("open", () => {
      this.isOpen = true;
      this.retry = FIRST_RETRY_MS;
      this.onChange();
    });
    socket.addEventListener("message", (event) => this.onMessage(parse(event.data)));
    socket.addEventListener("close", () => {
      this.isOpen = false;
      this.onChange();
      setTimeout(() => this.open(), this.retry);
      this.retry = Math.min(2 * this.retry, LAST_RETRY_MS);
    });
  }

  send(values) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify(values));
    }
  }
}
