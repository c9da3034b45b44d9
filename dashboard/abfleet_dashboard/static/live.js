// Adds the reader's own time to instants in UTC, and a button to commands that copies them. Keeps an open page up to date: asks for the version, and where it changed takes the new page's main part, bit by bit.
// What has not changed stays as it is in the document, and with it focus, selection, scroll and what is folded out.
"use strict";
(() => {
  const main = document.getElementById("main");
  const said = document.getElementById("live");
  const seconds = Number(document.body.dataset.refreshSeconds) || 2;
  const LONGEST_MS = 30000;
  const PAGE_EVERY_MS = 10000; // what tells an age changes without a new version
  let version = null;
  let pageAt = Date.now();
  let failures = 0;

  const sameKind = (old, fresh) =>
    old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && old.id === fresh.id;

  const copyAttributes = (old, fresh) => {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.nodeName === "DETAILS" && name === "open") continue; // the reader's to fold
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  };

  // Makes `old` say what `fresh` does, keeping every node that can be kept.
  const take = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    copyAttributes(old, fresh);
    let node = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      // Something was added or is gone: what comes later under the same id is what belongs here.
      if (node && wanted.id && !sameKind(node, wanted)) {
        const later = [...old.children].find((child) => child.id === wanted.id);
        if (later && sameKind(later, wanted)) {
          while (node && node !== later) {
            const gone = node;
            node = node.nextSibling;
            gone.remove();
          }
        }
      }
      if (node && sameKind(node, wanted)) {
        take(node, wanted);
        node = node.nextSibling;
      } else {
        old.insertBefore(document.importNode(wanted, true), node);
      }
    }
    while (node) {
      const gone = node;
      node = node.nextSibling;
      gone.remove();
    }
  };

  const own = (at) => {
    const sameDay = at.getUTCDate() === at.getDate();
    const day = sameDay ? {} : { day: "numeric", month: "short" };
    return at.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
  };

  // What the server cannot know or must not send; the same in the page and in a fresh one, so that nothing flickers.
  const dress = (part) => {
    for (const time of part.querySelectorAll("time.instant")) {
      const at = new Date(time.dateTime);
      if (at.getTimezoneOffset() === 0) continue;
      const local = document.createElement("span");
      local.className = "local";
      local.textContent = ` (${own(at)})`;
      time.append(local);
    }
    if (!navigator.clipboard) return;
    for (const code of part.querySelectorAll(".commands code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy: ${code.textContent}`);
      code.after(" ", button);
    }
  };

  const copied = async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    say("Copied.");
  };

  const say = (text) => {
    if (said && said.textContent !== text) said.textContent = text;
  };

  const page = async () => {
    const answer = await fetch(location.pathname + location.search, { cache: "no-cache", credentials: "same-origin" });
    if (!answer.ok && answer.status !== 404) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = fresh.getElementById("main");
    if (!part) throw new Error("not a page");
    document.title = fresh.title;
    dress(part);
    take(main, part);
    pageAt = Date.now();
  };

  const look = async () => {
    const answer = await fetch("/api/version", { cache: "no-cache", credentials: "same-origin" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const now = (await answer.json()).version;
    if (now !== version || Date.now() - pageAt > PAGE_EVERY_MS) await page();
    version = now;
  };

  const again = async () => {
    try {
      if (!document.hidden) await look();
      if (failures) say("Up to date again.");
      failures = 0;
    } catch {
      failures += 1;
      if (failures === 3) say("The dashboard does not answer. This page shows what was known before; it tries again.");
    }
    setTimeout(again, Math.min(seconds * 1000 * 2 ** Math.min(failures, 4), LONGEST_MS));
  };

  if (main) {
    dress(document);
    document.addEventListener("click", (event) => copied(event).catch(() => say("The browser does not allow copying.")));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && Date.now() - pageAt > seconds * 1000) look().catch(() => {});
    });
    setTimeout(again, seconds * 1000);
  }
})();
