"use strict";
// Draws the rows that the server sends, and tells it which key was pressed. It sends nothing else, and the
// server carries out only what cannot change the run.

const screenOf = document.getElementById("screen");
const said = document.getElementById("said");
const NAMES = {
  ArrowDown: "down", ArrowUp: "up", Home: "home", End: "end", Escape: "escape", Tab: "tab",
  "[": "left_square_bracket", "]": "right_square_bracket", "\\": "backslash",
};

function span([text, columns, colour, background, marks]) {
  const drawn = document.createElement("span");
  drawn.textContent = text; // never HTML: a model may have written it
  drawn.style.width = columns + "ch";
  drawn.style.color = colour;
  drawn.style.backgroundColor = background;
  drawn.className = [...marks].join(" ");
  return drawn;
}

function fit() {
  const { offsetWidth: width, offsetHeight: height } = screenOf;
  if (!width || !height) return;
  const scale = Math.min(window.innerWidth / width, window.innerHeight / height);
  screenOf.style.transform = `scale(${scale})`;
}

function draw({ columns, count, rows }) {
  if (columns) {
    screenOf.style.width = columns + "ch";
    screenOf.replaceChildren(...Array.from({ length: count }, () => document.createElement("div")));
  }
  for (const [number, spans] of Object.entries(rows)) {
    screenOf.children[number]?.replaceChildren(...spans.map(span));
  }
  if (columns) fit();
}

function connect() {
  const socket = new WebSocket(`ws://${location.host}/socket`);
  socket.onmessage = (message) => draw(JSON.parse(message.data));
  socket.onopen = () => { said.textContent = "read-only · 2 run · 3 completions"; };
  socket.onclose = () => {
    said.textContent = "not connected; trying again …";
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
