// Move the token from the fragment of the address into the form, and remove it from the address and the history.
"use strict";
const field = document.querySelector("[data-powauth-token]");
const token = window.location.hash.slice(1);
if (token !== "") {
  if (field !== null) {
    field.querySelector("input").value = token;
    field.hidden = true;
  }
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
}
