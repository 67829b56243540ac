"use strict";
// Draws the rows that the server sends and sends key names back. The server runs only read-only actions.

const screenElement = document.getElementById("screen");
const statusLine = document.getElementById("status");
const NAMES = {
  ArrowDown: "down", ArrowUp: "up", Home: "home", End: "end", Escape: "escape", Tab: "tab",
  "[": "left_square_bracket", "]": "right_square_bracket", "\\": "backslash",
};

function span([text, columns, color, background, marks]) {
  const element = document.createElement("span");
  element.textContent = text; // never HTML: a model may have written it
  element.style.width = columns + "ch";
  element.style.color = color;
  element.style.backgroundColor = background;
  element.className = [...marks].join(" ");
  return element;
}

function fit() {
  const { offsetWidth: width, offsetHeight: height } = screenElement;
  if (!width || !height) return;
  const scale = Math.min(window.innerWidth / width, window.innerHeight / height);
  screenElement.style.transform = `scale(${scale})`;
}

function draw({ columns, count, rows }) {
  if (columns) {
    screenElement.style.width = columns + "ch";
    screenElement.replaceChildren(...Array.from({ length: count }, () => document.createElement("div")));
  }
  for (const [number, spans] of Object.entries(rows)) {
    screenElement.children[number]?.replaceChildren(...spans.map(span));
  }
  if (columns) fit();
}

function connect() {
  const socket = new WebSocket(`ws://${location.host}/socket`);
  socket.onmessage = (message) => draw(JSON.parse(message.data));
  socket.onopen = () => { statusLine.textContent = "read-only · 2: run · 3: completions"; };
  socket.onclose = () => {
    statusLine.textContent = "not connected; retrying…";
    setTimeout(connect, 2000);
  };
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    let key = NAMES[event.key] ?? (event.key.length === 1 ? event.key : "");
    if (!key || socket.readyState !== WebSocket.OPEN) return;
    if (key === "tab" && event.shiftKey) key = "shift+tab";
    event.preventDefault();
    socket.send(key);
  };
}

window.onresize = fit;
connect();
