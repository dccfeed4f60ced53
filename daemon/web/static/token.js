// Asks for the token in a dialog; resolves with it, or with an empty text.

import { byId, setText } from "./dom.js";

const WANTED = "Changing something needs the text of work_dir/api.token. It is kept in this tab until that is closed.";

export function askToken(wrong) {
  const dialog = byId("ask"), field = byId("ask-token"), before = document.activeElement;
  setText(byId("ask-why"), wrong ? `The token is not the daemon's. ${WANTED}` : WANTED);
  field.value = "";
  return new Promise((resolve) => {
    const done = (token) => {
      byId("ask-form").onsubmit = byId("ask-cancel").onclick = dialog.oncancel = null;
      field.value = "";
      if (dialog.open) dialog.close();
      before?.focus?.();
      resolve(token);
    };
    byId("ask-form").onsubmit = (event) => { event.preventDefault(); done(field.value.replace(/\s+/g, "")); /* what was copied may be wrapped */ };
    byId("ask-cancel").onclick = () => done("");
    dialog.oncancel = () => done("");
    dialog.showModal();
    field.focus();
  });
}
