// Make or use a passkey, put the answer of the browser into the hidden field of a form, and send the form.
"use strict";
(() => {
  const marks = document.querySelectorAll("form [data-powauth-passkey]");
  if (window.PublicKeyCredential === undefined) {
    return; // the forms stay hidden, and a sentence says why
  }

  const REFRESH_MS = 100000; // a challenge is valid for two minutes
  let waiting = null; // the request behind the autofill

  const bytes = (text) =>
    Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replaceAll("+", "-")
      .replaceAll("/", "_")
      .replaceAll("=", "");
  const named = (list) => list?.map((each) => ({ ...each, id: bytes(each.id) }));

  async function ask(form, mark) {
    if (mark.dataset.powauthOptions !== undefined) {
      return JSON.parse(mark.dataset.powauthOptions);
    }
    const answer = await fetch(form.getAttribute("action"), {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ action: "options" }),
      redirect: "error",
    });
    if (!answer.ok) {
      throw Object.assign(new Error("refused"), { status: answer.status });
    }
    return (await answer.json()).publicKey;
  }

  async function options(form, mark) {
    const given = await ask(form, mark);
    const found = { ...given, challenge: bytes(given.challenge) };
    if (given.user !== undefined) {
      found.user = { ...given.user, id: bytes(given.user.id) };
    }
    if (given.excludeCredentials !== undefined) {
      found.excludeCredentials = named(given.excludeCredentials);
    }
    if (given.allowCredentials !== undefined) {
      found.allowCredentials = named(given.allowCredentials);
    }
    return found;
  }

  function answerOf(credential) {
    const given = credential.response;
    const response = { clientDataJSON: text(given.clientDataJSON) };
    if (given.attestationObject !== undefined) {
      response.attestationObject = text(given.attestationObject);
      response.transports = given.getTransports?.() ?? [];
    } else {
      response.authenticatorData = text(given.authenticatorData);
      response.signature = text(given.signature);
      if (given.userHandle) {
        response.userHandle = text(given.userHandle);
      }
    }
    const id = text(credential.rawId);
    return JSON.stringify({ id, rawId: id, type: credential.type, response });
  }

  function send(form, credential) {
    form.elements.credential.value = credential === null ? "" : answerOf(credential);
    const chosen = document.querySelector("#login-remember");
    if (chosen !== null && form.elements.remember !== undefined) {
      form.elements.remember.disabled = false;
      form.elements.remember.value = chosen.checked ? "true" : "false";
    }
    form.submit();
  }

  function show(form, error) {
    const place = form.querySelector("[data-powauth-failure]");
    const taken = error.name === "InvalidStateError" && place.dataset.powauthTaken;
    place.textContent = taken || place.dataset.powauthFailure;
    place.hidden = false;
  }

  async function run(form, mark) {
    waiting?.abort();
    waiting = null;
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const publicKey = await options(form, mark);
      const making = mark.dataset.powauthPasskey === "create";
      send(form, await navigator.credentials[making ? "create" : "get"]({ publicKey }));
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        send(form, null); // the server says what to do first
        return;
      }
      button.disabled = false;
      show(form, error);
      autofill(form, mark);
    }
  }

  // Offer passkeys among the suggestions for the user name, as long as the page is open.
  async function autofill(form, mark) {
    const field = document.querySelector("input[autocomplete~='username']");
    if (mark.dataset.powauthAutofill === undefined || field === null) {
      return;
    }
    if (!(await window.PublicKeyCredential.isConditionalMediationAvailable?.()) || waiting !== null) {
      return;
    }
    field.autocomplete = "username webauthn";
    for (;;) {
      const mine = new AbortController();
      const isOld = new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
      isOld.then(() => mine.abort());
      waiting = mine;
      try {
        const publicKey = await options(form, mark);
        send(form, await navigator.credentials.get({ publicKey, mediation: "conditional", signal: mine.signal }));
        return;
      } catch {
        await isOld; // then ask for another challenge, but not earlier, if the browser or the server has refused
      }
      if (waiting !== mine) {
        return; // the button was used
      }
    }
  }

  for (const each of document.querySelectorAll("[data-powauth-no-passkeys]")) {
    each.hidden = true;
  }
  for (const mark of marks) {
    const form = mark.closest("form");
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run(form, mark);
    });
    autofill(form, mark);
  }
})();
