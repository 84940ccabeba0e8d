"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", "Switch to " + (dark() ? "light" : "dark") + " colours"); };
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
  theme.hidden = false;

  // A link to a node opens it.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    if (target) target.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (e) => {
    const a = e.target.closest && e.target.closest("a");
    const href = a && (a.getAttribute("href") || "");
    if (href && href.startsWith("#") && href === location.hash) open();
  });
  open();

  for (const button of document.querySelectorAll(".expand")) {
    const rows = button.closest("section").querySelectorAll("details.row");
    if (rows.length > 200) continue; // too much to lay out at once
    button.hidden = false;
    button.addEventListener("click", () => {
      const all = button.textContent === "Open all";
      for (const r of rows) r.open = all;
      button.textContent = all ? "Close all" : "Open all";
    });
  }

  const find = document.getElementById("find"), phase = document.getElementById("phase"), found = document.getElementById("found");
  const rows = [...document.querySelectorAll("#events tbody tr")];
  const texts = rows.map((r) => r.textContent.toLowerCase());
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((r, i) => {
      const show = (!phase.value || r.dataset.phase === phase.value) && words.every((w) => texts[i].includes(w));
      r.hidden = !show;
      if (show) n++;
    });
    found.textContent = n + " of " + rows.length;
  };
  find.addEventListener("input", filter);
  phase.addEventListener("change", filter);
  filter();
  document.querySelector(".filter").hidden = false;
})();
