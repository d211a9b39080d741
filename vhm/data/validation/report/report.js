"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")].map((card) => ({
    card,
    text: `${card.dataset.code} ${card.closest("[data-group]").querySelector("h4").textContent} ${card.textContent}`.toLowerCase(),
  }));
  const controls = ["search", "status", "code", "source"].map(byId);
  const [search, status, code, source] = controls;

  for (const [control, name] of [[code, "code"], [source, "source"]]) {
    for (const value of [...new Set(cards.map(({ card }) => card.dataset[name]))].filter(Boolean).sort()) {
      control.add(new Option(value, value));
    }
  }

  function matches({ card, text }) {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (control, name) => !control.value || card.dataset[name] === control.value;
    return fits(status, "status") && fits(code, "code") && fits(source, "source") && words.every((word) => text.includes(word));
  }

  function filter() {
    let shown = 0;
    for (const entry of cards) {
      entry.card.hidden = !matches(entry);
      shown += !entry.card.hidden;
    }
    for (const part of document.querySelectorAll("[data-group], [data-part]")) {
      part.hidden = !part.querySelector(".card:not([hidden])");
    }
    byId("count").value = `${shown} of ${cards.length} examples`;
    byId("nothing").hidden = shown > 0;
  }

  function clear() {
    for (const control of controls) control.value = "";
    filter();
  }

  // A link to a group shows it, whatever is filtered.
  window.addEventListener("hashchange", () => {
    const target = byId(location.hash.slice(1));
    if (target && target.hidden) {
      clear();
      target.scrollIntoView();
    }
  });
  for (const control of controls) control.addEventListener("input", filter);
  byId("clear").addEventListener("click", clear);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());

  // The viewer: one example enlarged, the arrow keys go to the next.
  const viewer = byId("viewer");
  let current = null;

  function view(card) {
    if (!card) return;
    current = card;
    const copy = card.cloneNode(true);
    for (const button of copy.querySelectorAll("button")) {
      const frame = document.createElement("div");
      frame.className = "frame";
      frame.append(...button.childNodes);
      button.replaceWith(frame);
    }
    byId("stage").replaceChildren(copy);
    if (!viewer.open) viewer.showModal();
  }

  function step(distance) {
    const visible = cards.map(({ card }) => card).filter((card) => !card.hidden && card.querySelector("img"));
    view(visible[visible.indexOf(current) + distance]);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.frame");
    if (button) view(button.closest(".card"));
    if (event.target === viewer) viewer.close();
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !viewer.open && !/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    }
  });

  byId("tools").hidden = cards.length === 0;
  filter();
})();
