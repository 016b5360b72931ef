// Keeps the page current: asks GET /page every two seconds and replaces the parts that have changed.
// The server escapes every value in a part; the page is complete and useful without this script.
(() => {
  "use strict";
  const PERIOD = 2000, SLOWEST = 15000;
  const link = document.getElementById("link");
  const news = document.getElementById("news");
  const pause = document.getElementById("pause");
  const filter = document.getElementById("filter");
  const places = new Map([...document.querySelectorAll("[data-part]")].map((place) => [place.dataset.part, place]));
  const shown = new Map();
  let paused = false, timer = 0, failures = 0, asking = null;

  // A part in which somebody types, selects text or has moved the focus is left alone until they go on.
  const inUse = (place) => {
    const selection = getSelection();
    return place.contains(document.activeElement) ||
      (selection.rangeCount > 0 && !selection.isCollapsed && selection.getRangeAt(0).intersectsNode(place));
  };

  const put = (parts) => {
    for (const [name, html] of Object.entries(parts)) {
      const place = places.get(name);
      if (!place || shown.get(name) === html || inUse(place)) continue;
      const scrolled = [...place.querySelectorAll(".wide")].map((box) => box.scrollLeft);
      place.innerHTML = html;
      place.querySelectorAll(".wide").forEach((box, number) => { box.scrollLeft = scrolled[number] || 0; });
      shown.set(name, html);
    }
  };

  const say = (state, words) => { link.className = state; link.textContent = words; };

  const look = async () => {
    clearTimeout(timer);
    if (asking) asking.abort();
    const mine = asking = new AbortController();
    const overdue = setTimeout(() => mine.abort(), SLOWEST);
    try {
      const answer = await fetch("/page?filter=" + encodeURIComponent(filter.value), { signal: mine.signal, cache: "no-store" });
      if (!answer.ok) throw new Error("status " + answer.status);
      const told = await answer.json();
      if (mine !== asking || paused) return;
      put(told.parts);
      if (news.textContent !== told.news) news.textContent = told.news;
      failures = 0;
      say("on", "live");
    } catch (error) {
      if (mine !== asking || paused) return;
      failures += 1;
      say("off", "no answer");
      news.textContent = "The sidecar does not answer.";
    } finally {
      clearTimeout(overdue);
    }
    plan();
  };

  const plan = () => {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(look, Math.min(PERIOD * 2 ** failures, SLOWEST));
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) { clearTimeout(timer); say("paused", "paused"); } else look();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); else clearTimeout(timer); });
  filter.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 150); });
  filter.form.addEventListener("submit", (event) => { event.preventDefault(); look(); });
  look();
})();
