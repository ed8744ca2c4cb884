/** The page that a device keeps open: its token stands behind the `#`, which browsers send to nobody, and is kept on the device. */
export const portalPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>CloudAP</title>
<style>body{font:1.1rem system-ui;margin:3rem auto;max-width:30rem;padding:0 1rem}</style>
<h1>CloudAP</h1><p id="said" role="status">…</p>
<script>
const said = document.getElementById('said');
if (location.hash.length > 1) {
  localStorage.setItem('cloudap-token', location.hash.slice(1));
  history.replaceState(null, '', location.pathname);
}
const headers = { authorization: 'Bearer ' + (localStorage.getItem('cloudap-token') || '') };
async function here() {
  let again = 5000;
  try {
    const answer = await fetch('/here', { method: 'POST', headers });
    const body = await answer.json();
    if (answer.ok) { again = body.againWithinMs; said.textContent = 'Your machine comes to you while this page is open.'; }
    else said.textContent = body.message + ' — ' + body.remedy;
  } catch { said.textContent = 'This place does not answer; trying again.'; }
  setTimeout(here, again);
}
addEventListener('pagehide', () => { fetch('/here', { method: 'DELETE', headers, keepalive: true }); });
here();
</script></html>
`;
