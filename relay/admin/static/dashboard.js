// The live part of a page: what is marked with data-live is fetched again and put in its place.
// Without this script every page works; the reader loads it again to see what is new.
"use strict";

const every = 5000;

function tell(text) {
  const status = document.getElementById("live-status");
  if (status && status.textContent !== text) status.textContent = text;
}

// Whoever reads a table with the keyboard, or has opened a detail, must not lose his place.
function isInUse(part) {
  return part.contains(document.activeElement) || String(getSelection()) !== "";
}

async function refresh(part) {
  const answer = await fetch(part.dataset.live, { redirect: "error" });
  if (answer.status === 401) return location.reload();
  if (!answer.ok) throw new Error(String(answer.status));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (isInUse(part)) return tell("Not refreshed while you are reading here");
  const open = Array.from(part.querySelectorAll("details"), (each) => each.open);
  part.replaceChildren(...page.body.childNodes);
  part.querySelectorAll("details").forEach((each, place) => { each.open = Boolean(open[place]); });
  tell("Live");
}

for (const part of document.querySelectorAll("[data-live]")) {
  tell("Live");
  setInterval(() => {
    if (document.hidden) return;
    refresh(part).catch(() => tell("Not live: relay does not answer. The numbers are old."));
  }, every);
}
