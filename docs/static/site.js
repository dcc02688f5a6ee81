// What a screen reader needs and the theme, or pandas, leaves out.
document.addEventListener("DOMContentLoaded", () => {
  // The arrows that unfold a part of the sidebar have no name.
  for (const summary of document.querySelectorAll(".bd-sidebar summary, .bd-sidebar-primary summary")) {
    const page = summary.closest("li")?.querySelector("a")?.textContent.trim() ?? "this part";
    summary.setAttribute("aria-label", `Pages below: ${page}`);
  }
  // The sidebar with title and search is no landmark.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  sidebar?.setAttribute("role", "navigation");
  sidebar?.setAttribute("aria-label", "Site");
  // The corner of a data frame is a header of nothing.
  for (const corner of document.querySelectorAll(".dataframe th:empty")) {
    corner.replaceWith(document.createElement("td"));
  }
});
