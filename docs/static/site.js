// The theme's arrows that unfold a part of the sidebar have no name; a screen reader needs one.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll(".bd-sidebar summary, .bd-sidebar-primary summary")) {
    const page = summary.closest("li")?.querySelector("a")?.textContent.trim() ?? "this part";
    summary.setAttribute("aria-label", `Pages below: ${page}`);
  }
});
