"use strict";
// Answers are kept in this browser as they are given, and saved to a file when the judge says so.
const main = document.getElementById("sheet");
const questions = JSON.parse(main.dataset.questions);
const storageKey = "xrec-blind-sheet-" + main.dataset.sheet;
const judge = document.getElementById("judge");

function answers() {
  const byText = new Map();
  for (const input of document.querySelectorAll("input[type=radio]:checked")) {
    const [pair, place, question] = input.name.split("/");
    const key = pair + "/" + place;
    if (!byText.has(key)) byText.set(key, { pair: Number(pair), place: Number(place) });
    byText.get(key)[question] = Number(input.value);
  }
  return [...byText.values()];
}

function content() {
  return { sheet: main.dataset.sheet, judge: judge.value.trim(), answers: answers() };
}

function showProgress(warning = "") {
  const total = document.querySelectorAll("article").length * questions.length;
  const given = document.querySelectorAll("input[type=radio]:checked").length;
  document.getElementById("progress").textContent = given + " of " + total + " answered" + warning;
}

function keep() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(content()));
  } catch (error) {  // a private window, or a full disk
    showProgress("; this browser keeps nothing: save them before you leave");
    return;
  }
  showProgress();
}

function restore() {
  let kept = null;
  try { kept = JSON.parse(localStorage.getItem(storageKey)); } catch (error) { /* nothing is kept */ }
  if (!kept) return;
  judge.value = kept.judge;
  for (const answer of kept.answers) {
    for (const question of questions) {
      const name = [answer.pair, answer.place, question].join("/");
      for (const input of document.getElementsByName(name)) {
        input.checked = Number(input.value) === answer[question];
      }
    }
  }
}

function save() {
  if (!judge.value.trim()) {
    document.getElementById("progress").textContent = "Please give your name first.";
    judge.focus();
    return;
  }
  const link = document.createElement("a");
  const text = JSON.stringify(content(), null, 1);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "answers-" + judge.value.trim().replace(/[^\p{L}\p{N}]+/gu, "-") + ".json";
  link.click();
  URL.revokeObjectURL(link.href);
}

restore();
showProgress();
// What another tab keeps, or this one did just before it was loaded again, may arrive later.
window.addEventListener("storage", (event) => {
  if (event.key !== storageKey) return;
  restore();
  showProgress();
});
document.addEventListener("change", keep);
judge.addEventListener("input", keep);
document.getElementById("save").addEventListener("click", save);
