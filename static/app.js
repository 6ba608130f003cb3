// What pages gain from a script; every page works without it.
(() => {
  const each = (selector, action, root = document) => root.querySelectorAll(selector).forEach(action);

  // Theme: what is stored wins over the system's.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  each("[data-theme-toggle]", (button) => {
    const name = () => { button.textContent = current() === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    name();
    dark.addEventListener("change", name);
    button.addEventListener("click", () => {
      const chosen = current() === "dark" ? "light" : "dark";
      document.documentElement.dataset.theme = chosen;
      try { localStorage.setItem("theme", chosen); } catch { /* storage is off: the choice holds for this page */ }
      name();
    });
  });

  // Times: local, UTC on hover.
  const enhance = (root) => {
    each("time[datetime]", (time) => {
      const text = time.getAttribute("datetime");
      const value = new Date(text.replace(/(\.\d{3})\d+Z$/, "$1Z"));
      if (Number.isNaN(value.getTime())) return;
      time.title = text.replace("T", " ").replace("Z", " UTC");
      const two = (number) => String(number).padStart(2, "0");
      const day = `${value.getFullYear()}-${two(value.getMonth() + 1)}-${two(value.getDate())}`;
      time.textContent = `${day} ${two(value.getHours())}:${two(value.getMinutes())}:${two(value.getSeconds())}`;
    }, root);
    each("[data-attribute-search]", (field) => {
      field.hidden = false;
      field.querySelector("input").addEventListener("input", (event) => {
        const wanted = event.target.value.toLowerCase();
        each("tr[data-search]", (row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
      });
    }, root);
  };
  enhance(document);

  // Dataset and window apply as soon as they are chosen.
  each("form[data-autosubmit]", (form) => {
    form.querySelector("button[type=submit]").hidden = true;
    form.addEventListener("change", (event) => {
      // Another dataset lies at another time: its default window is the right one to begin with.
      if (event.target.name === "dataset") {
        form.elements.last.disabled = true;
        each("[data-fixed-window]", (field) => { field.disabled = true; }, form);
      } else if (event.target.value) {
        each("[data-fixed-window]", (field) => { field.disabled = true; }, form);
      }
      form.requestSubmit();
    });
    // Back and forward restore what was chosen on the way out; the page still shows what its URL says.
    addEventListener("pageshow", () => {
      form.reset();
      form.elements.last.disabled = false;
      each("[data-fixed-window]", (field) => { field.disabled = false; }, form);
    });
  });

  // Copy buttons.
  const copied = (button, text) => navigator.clipboard.writeText(text).then(() => {
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  });
  if (navigator.clipboard) {
    each("[data-copy]", (button) => {
      button.hidden = false;
      button.addEventListener("click", () => copied(button, button.parentElement.querySelector("code").textContent));
    });
    each("[data-copy-link]", (button) => {
      button.hidden = false;
      button.addEventListener("click", () => copied(button, location.href));
    });
  }

  // Questions before something is lost.
  each("[data-confirm]", (button) => {
    button.addEventListener("click", (event) => { if (!confirm(button.dataset.confirm)) event.preventDefault(); });
  });

  // The page for senders becomes the overview when the first span arrives.
  each("[data-poll-status]", (section) => {
    const line = section.querySelector("[data-poll-text]");
    const seen = Number(section.dataset.pollSeen);
    const look = async () => {
      try {
        const answer = await fetch("/api/status", { headers: { accept: "application/json" } });
        if (answer.ok) {
          const spans = Number((await answer.json()).live_spans);
          section.querySelector(".poll").classList.toggle("seen", spans > 0);
          if (spans > 0 && seen === 0) {
            line.textContent = "The first spans are here. Opening the overview.";
            location.assign("/");
            return;
          }
          line.textContent = spans ? `Spans are arriving: ${spans} so far.` : "Waiting for the first span.";
        }
      } catch {
        line.textContent = "The server does not answer.";
      }
      setTimeout(look, 2000);
    };
    look();
  });

  // Upload: drop, progress, and a word when it fails.
  each("form[data-upload]", (form) => {
    const file = form.querySelector("input[type=file]");
    const drop = form.querySelector("[data-drop]");
    const status = form.querySelector("[data-upload-status]");
    const progress = form.querySelector("[data-upload-progress]");
    form.querySelector("[data-drop-hint]").hidden = false;
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) file.files = event.dataTransfer.files;
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const request = new XMLHttpRequest();
      request.open("POST", form.action);
      request.upload.addEventListener("progress", (sent) => {
        if (!sent.lengthComputable) return;
        progress.hidden = false;
        progress.value = 100 * sent.loaded / sent.total;
        status.textContent = sent.loaded < sent.total ? `Sending, ${Math.round(progress.value)} %` : "Reading the file …";
      });
      request.addEventListener("load", () => {
        const arrived = new URL(request.responseURL || location.href);
        if (request.status < 300 && arrived.pathname !== location.pathname) {
          location.assign(arrived.href);
          return;
        }
        const page = new DOMParser().parseFromString(request.responseText, "text/html");
        progress.hidden = true;
        const said = [...page.querySelectorAll(".failure p, .verdict")].map((part) => part.textContent);
        status.textContent = said.join(" · ") || `Failed with status ${request.status}.`;
        status.classList.add("bad");
      });
      request.addEventListener("error", () => { progress.hidden = true; status.textContent = "The connection broke: nothing was imported."; });
      status.classList.remove("bad");
      status.textContent = "Sending …";
      request.send(new FormData(form));
    });
  });

  // Selecting a span swaps the panel only: the waterfall keeps its place.
  const panel = document.getElementById("span-panel");
  const fall = document.querySelector(".wf");
  if (panel && fall) {
    const show = async (href) => {
      const answer = await fetch(href);
      if (!answer.ok) { location.assign(href); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("span-panel");
      panel.replaceChildren(...fresh.childNodes);
      enhance(panel);
      each(".wf .sel", (row) => { row.classList.remove("sel"); row.firstElementChild.removeAttribute("aria-current"); });
      const row = document.getElementById(new URL(href, location.href).hash.slice(1));
      if (row) { row.classList.add("sel"); row.firstElementChild.setAttribute("aria-current", "true"); }
    };
    fall.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button || !link.search.includes("span=") || link.search.includes("rows=all") !== location.search.includes("rows=all")) return;
      event.preventDefault();
      history.pushState(null, "", link.href);
      show(link.href).then(() => {
        if (panel.getBoundingClientRect().top > innerHeight - 120) panel.scrollIntoView({ block: "start" });
      });
    });
    addEventListener("popstate", () => location.reload());
  }
})();
