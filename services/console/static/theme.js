// Runs before the page is drawn, so that a chosen theme does not flash.
{
  let chosen = null;
  try { chosen = localStorage.getItem("ringside-theme"); } catch { /* storage is off: the system's choice holds */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
