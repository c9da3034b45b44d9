// Keeps an open page up to date: asks for the version, and where it changed takes the new page's main part, bit by bit.
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

  const say = (text) => {
    if (said && said.textContent !== text) said.textContent = text;
  };

  const page = async () => {
    const answer = await fetch(location.pathname, { cache: "no-cache", credentials: "same-origin" });
    if (!answer.ok && answer.status !== 404) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = fresh.getElementById("main");
    if (!part) throw new Error("not a page");
    document.title = fresh.title;
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
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && Date.now() - pageAt > seconds * 1000) look().catch(() => {});
    });
    setTimeout(again, seconds * 1000);
  }
})();
