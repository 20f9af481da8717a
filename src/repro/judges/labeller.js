// The labeller in the browser. Text of models is untrusted: it only ever becomes textContent, never markup.
// A key or button sends {press, token}; the next pair is drawn when the kernel has saved the label and sends a new view.

const BUTTONS = [
  ["first", "A is better", "← or A", "ArrowLeft A"],
  ["tie", "Tie", "T or =", "T ="],
  ["second", "B is better", "→ or B", "ArrowRight B"],
  ["skip", "Skip", "S", "S"],
  ["undo", "Undo", "U or ⌫", "U Backspace"],
];
const KEYS = { arrowleft: "first", a: "first", arrowright: "second", b: "second", t: "tie", "=": "tie", s: "skip", u: "undo", backspace: "undo" };
const PATIENCE = 4000; // milliseconds until a silent kernel is spoken of

function element(tag, name, text, attributes = {}) {
  const made = document.createElement(tag);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function answer(title, text) {
  const box = element("section", "repro-labeller-answer", undefined, { "aria-label": `Answer ${title}` });
  const empty = text.trim() === "";
  const body = element("div", empty ? "repro-labeller-text repro-labeller-empty" : "repro-labeller-text", empty ? "empty answer" : text, { tabindex: "0", dir: "auto" });
  box.append(element("div", "repro-labeller-title", title), body);
  return box;
}

function prompt(turns) {
  const box = element("section", "repro-labeller-prompt", undefined, { "aria-label": "Prompt", tabindex: "0" });
  for (const [role, text] of turns) {
    box.append(element("div", "repro-labeller-title", role));
    box.append(element("div", "repro-labeller-text", text, { dir: "auto" }));
  }
  return box;
}

function progress(view) {
  const box = element("div", "repro-labeller-progress");
  const bar = element("progress", "", undefined, { max: view.total, value: view.done, "aria-label": "Pairs labelled" });
  box.append(bar, element("span", "", `${view.done} of ${view.total} labelled`), element("span", "", view.left));
  box.append(element("span", "repro-labeller-who", `as ${view.annotator}`));
  return box;
}

function render({ model, el }) {
  const root = element("div", "repro-labeller", undefined, { tabindex: "0", role: "group", "aria-label": "Compare two answers" });
  const body = element("div", "");
  const status = element("div", "repro-labeller-status", "", { role: "status", "aria-live": "polite" });
  const hint = element("div", "repro-labeller-hint", "Click here, or Tab to it, to use the keys.");
  const spoken = element("div", "repro-labeller-spoken", "", { "aria-live": "polite" }); // for who hears the page
  root.append(body, hint, status, spoken);
  el.append(root);
  let waiting = null;

  function press(what) {
    const view = model.get("view");
    if (waiting !== null || (view.finished && what !== "undo") || (what === "undo" && !view.undo)) return;
    root.classList.add("repro-labeller-busy");
    waiting = setTimeout(() => {
      waiting = null; // let it be tried again: the kernel takes each token once
      status.textContent = "Not saved: the kernel is busy or gone. If it was restarted, run this cell again; what was saved stays.";
      root.classList.remove("repro-labeller-busy");
    }, PATIENCE);
    try {
      model.send({ press: what, token: view.token });
    } catch {
      status.textContent = "Not saved: there is no kernel. Run this cell again; what was saved stays.";
    }
  }

  function draw() {
    clearTimeout(waiting);
    waiting = null;
    const view = model.get("view");
    const focused = root.contains(document.activeElement);
    const parts = [progress(view)];
    if (view.finished) {
      parts.push(element("div", "repro-labeller-finished", view.finished));
    } else {
      const answers = element("div", "repro-labeller-answers");
      answers.append(answer("A", view.first), answer("B", view.second));
      parts.push(prompt(view.prompt), answers);
    }
    const bar = element("div", "repro-labeller-buttons");
    for (const [what, words, keys, shortcuts] of BUTTONS) {
      const button = element("button", `repro-labeller-${what}`, words, { type: "button", "aria-keyshortcuts": shortcuts });
      button.append(element("kbd", "", keys));
      button.disabled = what === "undo" ? !view.undo : Boolean(view.finished);
      button.addEventListener("click", () => press(what));
      bar.append(button);
    }
    body.replaceChildren(...parts, bar);
    status.textContent = view.message;
    spoken.textContent = `${view.done} of ${view.total} labelled.` + (view.finished ? "" : ` Prompt: ${view.prompt.at(-1)[1]}`);
    root.classList.remove("repro-labeller-busy");
    const asked = body.querySelector(".repro-labeller-prompt");
    if (asked) asked.scrollTop = asked.scrollHeight; // of a long dialogue the last turn
    if (focused) {
      root.focus({ preventScroll: true });
      body.firstElementChild.scrollIntoView({ block: "nearest" }); // where the pair before was longer, this one is above
    }
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab" || event.key === "Escape") return;
    if (event.key === "Enter" && event.shiftKey) return;
    event.stopPropagation(); // or JupyterLab would take a, b, s and x for cells
    const what = KEYS[event.key.toLowerCase()];
    if (what === undefined) return;
    event.preventDefault();
    if (!event.repeat) press(what); // a key that is held down labels one pair
  });
  model.on("change:view", draw);
  draw();
  return () => model.off("change:view", draw);
}

export default { render };
