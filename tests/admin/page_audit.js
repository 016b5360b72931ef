// What an accessibility checker finds without knowing the page: returns a list of complaints.
const complaints = [];
const name = (element) => element.tagName.toLowerCase() + (element.id ? "#" + element.id : "") + (element.className && element.className.baseVal === undefined ? "." + element.className : "");
const visible = (element) => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1 && getComputedStyle(element).visibility === "visible";
};
const need = (condition, words) => { if (!condition) complaints.push(words); };

need(document.documentElement.lang, "no language");
need(document.title, "no title");
need(document.querySelectorAll("h1").length === 1, "not one h1");
need(document.querySelectorAll("main").length === 1, "not one main");
for (const landmark of ["body > header", "body > nav", "body > footer"]) need(document.querySelector(landmark), "no " + landmark);
const navigations = [...document.querySelectorAll("nav")].map((one) => one.getAttribute("aria-label"));
need(navigations.every(Boolean) && new Set(navigations).size === navigations.length, "navigations without names of their own");

let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
  const mine = Number(heading.tagName[1]);
  need(mine <= level + 1, "skips a heading level: " + heading.textContent);
  need(heading.textContent.trim(), "empty heading");
  level = mine;
}
const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
need(new Set(ids).size === ids.length, "an id is used twice");
for (const attribute of ["aria-labelledby", "aria-describedby", "for"])
  for (const one of document.querySelectorAll(`[${attribute}]`)) need(document.getElementById(one.getAttribute(attribute)), "names nobody: " + name(one));
for (const one of document.querySelectorAll("section")) need(one.hasAttribute("aria-labelledby"), "a section without a name");
for (const one of document.querySelectorAll("input:not([type=hidden]), select, meter"))
  need((one.labels && one.labels.length && one.labels[0].textContent.trim()) || one.getAttribute("aria-label"), "no label: " + name(one));
for (const one of document.querySelectorAll("button, a")) need(one.textContent.trim(), "no name: " + name(one));
for (const one of document.querySelectorAll("img")) need(one.hasAttribute("alt"), "no alternative text");
for (const one of document.querySelectorAll("svg")) need(one.getAttribute("aria-hidden") === "true" || one.getAttribute("aria-label"), "a picture without words");
for (const one of document.querySelectorAll("table")) {
  need(one.caption && one.caption.textContent.trim(), "a table without caption");
  for (const heading of one.querySelectorAll("th")) need(heading.scope, "a heading without scope");
}
for (const one of document.querySelectorAll("[tabindex]")) {
  need(Number(one.getAttribute("tabindex")) <= 0, "changes the order of the focus: " + name(one));
  if (one.tabIndex === 0) need(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby"), "focus on something without a name: " + name(one));
}
for (const one of document.querySelectorAll("dt")) need(one.parentElement.closest("dl"), "dt outside dl");
for (const one of document.querySelectorAll("button, input:not([type=hidden]), select"))
  if (visible(one)) need(one.getBoundingClientRect().height >= 24, "too small to hit: " + name(one)); // WCAG 2.2, 2.5.8

// Contrast of text as computed (WCAG 2.2, 1.4.3): 4.5, large text 3.
const parse = (colour) => { const found = colour.match(/[\d.]+/g).map(Number); return [found[0], found[1], found[2], found.length > 3 ? found[3] : 1]; };
const over = (top, below) => top.slice(0, 3).map((part, index) => part * top[3] + below[index] * (1 - top[3]));
const background = (element) => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const light = (colour) => {
  const [r, g, b] = colour.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let measured = 0;
const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (words.nextNode()) {
  const element = words.currentNode.parentElement;
  if (!words.currentNode.textContent.trim() || !visible(element) || element.closest("script, style, noscript, .skip, .hidden")) continue;
  const style = getComputedStyle(element), below = background(element), ink = over(parse(style.color), below);
  const [high, low] = [light(ink), light(below)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  measured += 1;
  need(ratio >= (large ? 3 : 4.5), `contrast ${ratio.toFixed(2)}: ${name(element)} "${words.currentNode.textContent.trim().slice(0, 30)}"`);
}
need(measured > 100, "too little text was measured: " + measured);
return complaints;
