// The slider and the filters of an explorer: counts at the threshold, and the boxes and images that remain visible.
const format = (value) => value === null ? "\u2013" : Number.isInteger(value.number) && !value.fraction
  ? String(value.number).replace(/\B(?=(\d{3})+$)/g, "\u2009") : value.number.toFixed(3);
const count = (number) => ({ number, fraction: false });
const fraction = (part, whole) => whole ? { number: part / whole, fraction: true } : null;

// Boxes, TP, FP, FN, precision, recall and F1 of a class; of all classes if it is null.
function metricsAt(data, index, classId) {
  const ids = classId === null ? data.classes.map((_, id) => id) : [classId];
  const total = (name) => ids.reduce((sum, id) => sum + (data.counts[name][id][index] ?? 0), 0);
  const boxes = ids.reduce((sum, id) => sum + data.boxes[id], 0);
  const tp = total("correct"), wrong = data.types.map((name) => [name, total(name)]);
  const fp = wrong.reduce((sum, [, number]) => sum + number, 0);
  return {
    values: [count(boxes), count(tp), count(fp), count(boxes - tp), fraction(tp, tp + fp), fraction(tp, boxes),
      boxes ? fraction(2 * tp, boxes + tp + fp) : null],
    errors: [...wrong, ["missed", boxes - tp]],
  };
}

function showCell(cell, value) {
  cell.textContent = format(value);
  cell.dataset.value = value === null ? "" : value.number;
  if (value === null || value.fraction) {
    cell.classList.toggle("bar", value !== null);
    cell.style.setProperty("--bar", `${value === null ? 0 : 100 * value.number}%`);
  }
}

// State of a box at a threshold: is it missed or wrong (an error), and is it among the detections with this score?
function boxState(box, threshold) {
  const { kind, score, type } = box.dataset;
  const reached = score !== "" && score !== undefined && Number(score) >= threshold;
  if (kind === "annotated") return { kept: true, error: !reached, type: reached ? "" : "missed" };
  const error = kind === "detection" && type !== "correct" && type !== "ignored";
  return { kept: kind === "crowd" || reached, error, type: error ? type : "" };
}

function updateBox(box, state, view) {
  const { kind, class: classId } = box.dataset;
  const ofClass = view.classId === null || Number(classId) === view.classId;
  const ofType = !view.type || state.type === view.type || (view.correct && !state.error);
  const ofKind = kind === "detection" ? view.detections : view.annotated;
  const visible = state.kept && ofClass && ofType && ofKind && (state.error || view.correct);
  box.toggleAttribute("hidden", !visible);
  if (kind === "annotated") {
    box.classList.toggle("gt-missed", state.error);
    box.classList.toggle("gt-matched", !state.error);
    box.querySelector("title").textContent =
      `${view.classes[Number(classId)]}, annotated, ${state.error ? "missed" : "detected"}`;
  }
  return state.error && state.kept && ofClass && (!view.type || state.type === view.type);
}

// Updates the boxes and the caption of a card; returns whether it has an error that the filters select.
function updateCard(card, view) {
  const tally = { missed: 0, wrong: 0, right: 0 };
  let selected = false;
  for (const box of card.querySelectorAll(".overlay")) {
    const state = boxState(box, view.threshold);
    selected = updateBox(box, state, view) || selected;
    if (!state.kept || (view.classId !== null && Number(box.dataset.class) !== view.classId)) continue;
    if (state.error) tally[state.type === "missed" ? "missed" : "wrong"] += 1;
    else if (box.dataset.type === "correct") tally.right += 1;
  }
  const scores = view.threshold < view.minScore ? ` with a score of ${view.minScore} or more` : "";
  card.querySelector("p").textContent =
    `boxes: ${tally.missed} missed; detections${scores}: ${tally.wrong} wrong, ${tally.right} correct`;
  card.querySelector("details")?.remove();
  return selected;
}

function updateGallery(gallery, view) {
  const cards = [...gallery.querySelectorAll(".card")];
  const filtered = view.classId !== null || view.type !== "";
  let visible = 0;
  for (const card of cards) {
    const selected = updateCard(card, view);
    card.toggleAttribute("hidden", filtered && !selected);
    visible += !card.hidden;
  }
  gallery.querySelector("[role=status]").textContent = filtered
    ? `${visible} of ${cards.length} images have such errors.` : `${cards.length} images.`;
}

for (const explorer of document.querySelectorAll("[data-explorer]")) {
  const data = JSON.parse(explorer.querySelector("script").textContent);
  const slider = explorer.querySelector("input[type=range]"), output = explorer.querySelector("output");
  const [classes, types] = ["class", "type"].map((name) => explorer.querySelector(`select[name=${name}]`));
  const rowsOf = (name) => [...explorer.querySelector(`[data-table=${name}] tbody`).rows];
  const rows = { classes: rowsOf("classes"), types: rowsOf("types") }; // before the reader sorts them
  const status = explorer.querySelector("[role=status]"); // for screen readers
  const tiles = [...explorer.querySelectorAll("dd")];
  const gallery = [...document.querySelectorAll("[data-gallery]")]
    .find((one) => one.dataset.gallery === explorer.dataset.explorer);
  const update = () => {
    const index = Number(slider.value), threshold = data.thresholds[index];
    const classId = classes.value === "" ? null : Number(classes.value);
    output.textContent = threshold.toFixed(3);
    slider.setAttribute("aria-valuetext", threshold.toFixed(3));
    const chosen = metricsAt(data, index, classId);
    tiles.forEach((tile, i) => { tile.textContent = format(chosen.values[i]); });
    const [, tp, fp, fn] = chosen.values.map(format);
    status.textContent = `${tp} true positives, ${fp} false positives, ${fn} false negatives`;
    rows.types.forEach((row, i) => {
      showCell(row.cells[1], count(chosen.errors[i][1]));
      row.toggleAttribute("hidden", types.value !== "" && types.value !== chosen.errors[i][0]);
    });
    rows.classes.forEach((row, id) => {
      metricsAt(data, index, id).values.forEach((value, i) => showCell(row.cells[i + 1], value));
      row.toggleAttribute("hidden", classId !== null && classId !== id);
    });
    if (!gallery) return;
    const on = (name) => gallery.querySelector(`input[name=${name}]`).checked;
    updateGallery(gallery, {
      threshold, classId, type: types.value, classes: data.classes, minScore: data.min_score,
      annotated: on("annotated"), detections: on("detections"), correct: on("correct"),
    });
  };
  explorer.querySelector(".reset").addEventListener("click", () => { slider.value = data.best; update(); });
  for (const control of [slider, classes, types, ...(gallery?.querySelectorAll("input") ?? [])]) {
    control.addEventListener("input", update);
  }
  update(); // browsers restore the controls on reload
}
// One of two sets of boxes is visible in a gallery of two runs.
for (const gallery of document.querySelectorAll("[data-layer].gallery-block")) {
  for (const radio of gallery.querySelectorAll("input[type=radio]")) {
    const choose = () => { if (radio.checked) gallery.dataset.layer = radio.value; };
    radio.addEventListener("change", choose);
    choose();
  }
}
