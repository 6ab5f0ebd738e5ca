// The page requests an explanation, shows its text part by part, then the evidence.
// Everything is inserted as text, never as markup.

const at = (id) => document.getElementById(id);
const SOURCES = { backfill: "from the backfill", live: "written now", cached: "from the cache" };
let current = null; // the AbortController of the current request; a new request aborts it

function headers() {
  const key = at("key").value || sessionStorage.getItem("xrec-key") || "";
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.status = problem.status;
  }
}

async function call(path, body, signal) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const response = await fetch(path, { ...options, headers: headers(), signal });
  if (!response.ok) {
    const { status } = response;
    const unreadable = { status, detail: `The endpoint returned status ${status}.` };
    throw new Refused(await response.json().catch(() => unreadable));
  }
  if (at("key").value) sessionStorage.setItem("xrec-key", at("key").value);
  return response;
}

const json = async (path, body, signal) => (await call(path, body, signal)).json();

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const parts = waiting.split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      if (part.startsWith(":")) continue; // a comment that keeps the connection open
      const [name, data] = part.split("\n");
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

function show(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    at("key-field").hidden = false;
    at("key").focus();
  }
  show(error.status ? error.message : "The endpoint does not respond. Is it still running?");
}

function bar(name, share, number) {
  const row = document.createElement("li");
  const [label, track, value] = ["span", "div", "span"].map((tag) =>
    row.appendChild(document.createElement(tag)),
  );
  label.textContent = name;
  label.title = name;
  track.className = "bar";
  const percent = Math.round(100 * Math.max(0, Math.min(1, share)));
  track.appendChild(document.createElement("i")).style.width = `${percent}%`;
  value.className = "number";
  value.textContent = number;
  return row;
}

function showEvidence(evidence) {
  const titled = evidence.item_title && `${evidence.item_title} (${evidence.item_id})`;
  at("pair").textContent = `${titled || evidence.item_id} for ${evidence.user_id}`;
  at("item-profile").textContent = evidence.item_profile || "No profile.";
  at("user-profile").textContent = evidence.user_profile || "No profile.";
  at("standing").textContent =
    `By its vector alone, this item ranks ${evidence.rank} of the ${evidence.num_ranked} ` +
    "that the user has not seen.";
  at("near").replaceChildren(
    ...evidence.nearest_history.map((near) =>
      bar(near.title || near.item_id, near.similarity, near.similarity.toFixed(2)),
    ),
  );
}

function counted(chosen, aspectsFrom) {
  const ofUser = `in ${chosen.user_reviews} of the user's ${chosen.num_user_reviews}`;
  return aspectsFrom === "profiles"
    ? `in the item's profile, ${ofUser} items' profiles`
    : `in ${chosen.item_reviews} of the item's ${chosen.num_item_reviews} reviews, ${ofUser}`;
}

function showAspects(aspects, aspectsFrom) {
  at("aspects-title").hidden = !aspects.length;
  at("aspects").replaceChildren(
    ...aspects.map((chosen) => {
      const row = document.createElement("li");
      const name = document.createElement(chosen.is_named ? "strong" : "span");
      name.textContent = chosen.aspect;
      row.append(
        name,
        chosen.opinion ? ` (\u201c${chosen.opinion}\u201d)` : "",
        `: ${counted(chosen, aspectsFrom)}`,
      );
      return row;
    }),
  );
}

const PEOPLE = {
  others: ({ at_least, name }) =>
    `At least ${at_least} other people chose both this item and ${name}, as did the user.`,
  history: ({ name }) => `The user chose ${name}, which contributes most to this recommendation.`,
  category: ({ name }) => `The user chose other items of the category ${name}.`,
  popular: ({ at_least }) => `At least ${at_least} other people chose this item.`,
};

function showPeople(people) {
  at("people").textContent = people ? PEOPLE[people.kind](people) : "";
  at("people-title").hidden = !people;
}

function reset() {
  show("");
  const texts = ["text", "facts", "source", "pair"];
  const evidence = ["aspects", "near", "standing", "item-profile", "user-profile"];
  for (const id of [...texts, ...evidence]) at(id).textContent = "";
  at("aspects-title").hidden = true;
  showPeople(null);
  at("answer").hidden = false;
}

async function writeExplanation(pair, signal) {
  const text = at("text");
  text.setAttribute("aria-busy", "true");
  try {
    const pairs = [{ ...pair, fresh: at("fresh").checked }];
    const parts = at("unchecked").checked ? "unchecked" : "checked";
    const response = await call("/v1/explanations/stream", { pairs, parts }, signal);
    for await (const [name, data] of events(response)) {
      if (name === "part") {
        text.textContent += data.text;
        at("source").textContent = data.is_checked ? "" : "not checked yet";
      } else if (name === "withdrawn") text.textContent = "";
      const problem = name === "problem" ? data : data.answer?.problem;
      if (problem) throw new Refused(problem);
      if (name === "explanation") return data.answer;
    }
    throw new Error("the stream ended early");
  } catch (error) {
    text.textContent = at("source").textContent = "";
    throw error;
  } finally {
    text.setAttribute("aria-busy", "false");
  }
}

async function explain(pair) {
  current?.abort();
  const { signal } = (current = new AbortController());
  reset();
  at("explain").setAttribute("aria-busy", "true");
  try {
    const evidence = await json("/v1/evidence", pair, signal);
    showEvidence(evidence);
    const answer = await writeExplanation(pair, signal);
    at("text").textContent = answer.explanation;
    at("source").textContent = SOURCES[answer.is_cached ? "cached" : answer.source];
    showAspects(answer.aspects, evidence.aspects_from);
    showPeople(answer.people);
    const { kind, num_generated_tokens: tokens, model_fingerprint: model } = answer;
    const reason = tokens ? ", because the model's text was refused" : "";
    at("facts").textContent =
      kind === "plain" ? `A plain sentence made from the evidence${reason}.` : `${tokens} tokens.`;
    at("model").textContent = model && ` · model ${model}`;
  } finally {
    if (signal === current?.signal) at("explain").setAttribute("aria-busy", "false");
  }
}

function options(list, entries) {
  at(list).replaceChildren(
    ...entries.map(([value, label]) => {
      const option = document.createElement("option");
      option.value = value;
      option.label = label;
      return option;
    }),
  );
}

async function suggestUsers() {
  const { users } = await json(`/v1/users?limit=30&prefix=${encodeURIComponent(at("user").value)}`);
  options("users", users.map((user) => [user, ""]));
  return users;
}

async function suggestItems() {
  const path = `/v1/items?limit=30&text=${encodeURIComponent(at("item").value)}`;
  let { items, next } = await json(path);
  while (!items.length && next !== null) {
    ({ items, next } = await json(`${path}&after=${encodeURIComponent(next)}`));
  }
  options("items", items.map((item) => [item.item_id, item.title]));
}

async function suggestBest() {
  const user = at("user").value;
  const path = `/v1/users/${encodeURIComponent(user)}/recommendations?k=6&explain=false`;
  const { items } = user ? await json(path).catch(() => ({ items: [] })) : { items: [] };
  if (user !== at("user").value) return;
  at("best").hidden = !items.length;
  at("best-items").replaceChildren(
    ...items.map((item) => {
      const entry = document.createElement("li");
      const button = entry.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = item.title || item.item_id;
      button.dataset.item = item.item_id;
      button.setAttribute("aria-pressed", String(at("item").value === item.item_id));
      button.addEventListener("click", () => {
        at("item").value = item.item_id;
        at("ask").requestSubmit();
      });
      return entry;
    }),
  );
}

function later(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => work().catch(fail), milliseconds);
  };
}

async function suggestForUser() {
  await suggestUsers();
  await suggestBest();
}

at("user").addEventListener("input", later(suggestForUser, 200));
at("item").addEventListener("input", later(suggestItems, 200));
at("key").addEventListener("change", () => start());
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  for (const button of at("best-items").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.item === at("item").value));
  }
  explain({ user_id: at("user").value, item_id: at("item").value }).catch(fail);
});

async function start() {
  try {
    const users = await suggestUsers();
    show("");
    if (!at("user").value && users.length) at("user").value = users[0];
    await Promise.all([suggestItems(), suggestBest()]);
    const best = at("best-items").querySelector("button");
    if (best && !current && !at("item").value) {
      at("item").value = best.dataset.item;
      best.setAttribute("aria-pressed", "true");
      const pair = { user_id: at("user").value, item_id: best.dataset.item };
      await explain(pair).catch((error) => {
        if (error.name !== "AbortError") at("answer").hidden = true; // nobody asked, so no message
      });
    }
  } catch (error) {
    fail(error);
  }
}

start();
