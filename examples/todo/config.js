/** Where the server is: `?server=http://…` in the address, or the default for a server on this machine. */

export const server = new URLSearchParams(location.search).get('server') ?? 'http://127.0.0.1:6480'

/** Links keep it. */
for (const link of document.querySelectorAll('a[href]')) link.search = location.search
