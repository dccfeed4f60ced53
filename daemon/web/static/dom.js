// The only ways this page writes into itself. Nothing here, or anywhere else, parses text as HTML: ids, log
// lines and messages come from agents and may be hostile.

export const byId = (id) => document.getElementById(id);

/** An element with a class, a text and children. */
export function make(tag, kind = "", text = "", ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** Writes only what differs, so that an unchanged cell costs no layout and is not read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setClass(element, kind) {
  if (element.className !== kind) element.className = kind;
}

/** Says something to who listens instead of looking, without moving the focus. */
export function say(text) {
  setText(byId("said"), text);
}
