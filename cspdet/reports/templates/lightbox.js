// An enlarged image with its boxes: buttons, arrow keys and swipes move to the other images of its gallery.
{
  const dialog = document.getElementById("lightbox");
  const part = (selector) => dialog.querySelector(selector);
  let opened = null; // the button of the image

  const siblings = () => [...opened.closest(".gallery-block").querySelectorAll(".card:not([hidden]) .enlarge")];

  function show(button) {
    opened = button;
    const card = button.closest(".card"), gallery = button.closest(".gallery-block"), all = siblings();
    const place = all.indexOf(button);
    part("#lightbox-title").textContent = card.querySelector("h4").textContent;
    part(".position").textContent = `${place + 1} of ${all.length}`;
    part(".previous").disabled = part(".next").disabled = all.length < 2;
    const image = button.parentElement.cloneNode(false);
    image.append(...[...button.children].map((child) => child.cloneNode(true)));
    const bitmap = image.querySelector("img");
    image.style.setProperty("--ratio", bitmap.getAttribute("width") / bitmap.getAttribute("height"));
    bitmap.removeAttribute("loading");
    const stage = part(".stage");
    stage.replaceChildren(image);
    stage.style.setProperty("--tag-scale", bitmap.getAttribute("width") / (image.clientWidth || 1)); // text of 12 px
    if (gallery.dataset.layer) stage.dataset.layer = gallery.dataset.layer;
    else delete stage.dataset.layer;
    part(".lines").replaceChildren(...[...card.querySelectorAll(":scope > p")].map((line) => line.cloneNode(true)));
    const boxes = [...image.querySelectorAll(".overlay")].filter((box) => !box.hasAttribute("hidden"))
      .filter((box) => !box.dataset.layer || box.dataset.layer === gallery.dataset.layer);
    const texts = new Map();
    for (const box of boxes) {
      const text = box.querySelector("title").textContent;
      texts.set(text, (texts.get(text) ?? 0) + 1);
    }
    part(".boxes").replaceChildren(...[...texts].map(([text, number]) => {
      const item = document.createElement("li");
      item.textContent = number > 1 ? `${number} \u00d7 ${text}` : text;
      return item;
    }));
  }

  // The switches of the gallery, such as `annotated`, work in the dialog, too.
  function showSwitches() {
    const source = opened.closest(".gallery-block").querySelectorAll(".toggles input");
    part(".switches").replaceChildren(...[...source].map((input) => {
      const label = input.parentElement.cloneNode(true), copy = label.querySelector("input");
      copy.name = `lightbox-${input.name}`;
      copy.checked = input.checked;
      copy.addEventListener("change", () => {
        input.checked = copy.checked;
        for (const name of ["input", "change"]) input.dispatchEvent(new Event(name));
        if (!siblings().includes(opened)) return;
        show(opened);
      });
      return label;
    }));
  }

  function move(step) {
    const all = siblings();
    if (all.length > 1) show(all[(all.indexOf(opened) + step + all.length) % all.length]);
  }

  for (const button of document.querySelectorAll(".enlarge")) {
    button.addEventListener("click", () => { opened = button; showSwitches(); dialog.showModal(); show(button); part(".close").focus(); });
  }
  part(".close").addEventListener("click", () => dialog.close());
  part(".previous").addEventListener("click", () => move(-1));
  part(".next").addEventListener("click", () => move(1));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => opened?.focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "radio") return; // arrow keys select another radio button
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
    if (event.key === "Tab") keepFocus(event);
  });

  // Tab stays in the dialog.
  function keepFocus(event) {
    const stops = [...dialog.querySelectorAll("button:not([disabled]), input")];
    const edge = event.shiftKey ? stops[0] : stops.at(-1);
    if (document.activeElement !== edge) return;
    event.preventDefault();
    (event.shiftKey ? stops.at(-1) : stops[0]).focus();
  }

  let start = null;
  part(".stage").addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0] : null; // two fingers zoom
  }, { passive: true });
  part(".stage").addEventListener("touchend", (event) => {
    if (!start) return;
    const end = event.changedTouches[0], x = end.clientX - start.clientX, y = end.clientY - start.clientY;
    if (Math.abs(x) > 40 && Math.abs(x) > 2 * Math.abs(y)) move(x < 0 ? 1 : -1);
    start = null;
  });
}
