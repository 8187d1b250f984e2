// Dark or light: as the system says, until somebody switches. Before the page is drawn, so that nothing flashes.
try {
  const kept = localStorage.getItem("theme");
  if (["dark", "light"].includes(kept)) document.documentElement.dataset.theme = kept;
} catch { /* a browser that keeps nothing */ }
