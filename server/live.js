// The live page of `fedbox watch --web`: asks where the run is, and takes over what is new without losing the reader's place.
"use strict";

const EVERY = 2000; // milliseconds between two questions
let paused = false;
let next = 0; // earliest time of the next rendering, which is work for the machine that trains

function opened(root) {
  const states = new Map();
  root.querySelectorAll("details").forEach((one) => states.set(one.querySelector("summary").textContent, one.open));
  root.querySelectorAll("input[id]").forEach((one) => states.set("#" + one.id, one.checked));
  return states;
}

function restore(root, states) {
  root.querySelectorAll("details").forEach((one) => {
    const name = one.querySelector("summary").textContent;
    if (states.has(name)) one.open = states.get(name);
  });
  root.querySelectorAll("input[id]").forEach((one) => {
    if (states.has("#" + one.id)) one.checked = states.get("#" + one.id);
  });
}

async function renew(version) {
  const start = Date.now();
  const answer = await fetch("/", { cache: "no-store" });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const here = document.querySelector("#report");
  const states = opened(here);
  const focused = document.activeElement && document.activeElement.id;
  here.replaceWith(fresh.querySelector("#report"));
  document.querySelector("head > style").replaceWith(fresh.querySelector("head > style"));
  document.title = fresh.title;
  restore(document.querySelector("#report"), states);
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
  document.querySelector("#live").dataset.version = version;
  next = Date.now() + 5 * (Date.now() - start);
}

async function look() {
  const live = document.querySelector("#live");
  try {
    const state = await (await fetch("/state", { cache: "no-store" })).json();
    const ended = state.state === "ended";
    const told = document.querySelector("#live-state");
    if (told.textContent !== state.text) told.textContent = state.text;
    live.dataset.state = state.state;
    const bar = document.querySelector("#live-bar");
    bar.max = state.total || 1;
    bar.value = state.done;
    if (!paused && String(state.version) !== live.dataset.version && (ended || Date.now() >= next)) await renew(state.version);
  } catch {
    document.querySelector("#live-state").textContent = "fedbox watch no longer answers; this is what it last told";
    live.dataset.state = "gone";
  }
  setTimeout(look, EVERY);
}

document.querySelector("#live-pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
});
look();
