/** Chromium without a head, and the example application on a port of its own. */

import { createServer, type Server as HttpServer } from 'node:http'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { chromium, type Browser } from 'playwright-core'

const EXAMPLE = new URL('../../../examples/todo/', import.meta.url)
const SOURCE = fileURLToPath(new URL('../src/index.ts', import.meta.url))
const CRDT = fileURLToPath(new URL('../src/crdt.ts', import.meta.url))
const TYPES: Record<string, string> = { html: 'text/html', js: 'text/javascript', css: 'text/css' }

export const CHROMIUM = process.env['CHROMIUM'] ?? '/usr/bin/chromium'

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
}

/** What a static file server would serve of the example once it is built. */
export class Site {
  private constructor(
    readonly origin: string,
    private readonly server: HttpServer,
  ) {}

  static async start(): Promise<Site> {
    const { outputFiles } = await build({
      entryPoints: ['app.js', 'admin.js'].map((name) => fileURLToPath(new URL(name, EXAMPLE))),
      bundle: true,
      format: 'esm',
      target: 'es2022',
      outdir: '/dist',
      write: false,
      alias: { springhead: SOURCE, 'springhead/crdt': CRDT },
    })
    const built = new Map(outputFiles.map(({ path, text }) => [path, text]))
    const server = createServer((request, response) => {
      const path = new URL(request.url ?? '/', 'http://site').pathname
      const body = built.has(path) ? Promise.resolve(built.get(path)) : readFile(new URL(`.${path}`, EXAMPLE))
      body.then(
        (bytes) => response.writeHead(200, { 'content-type': TYPES[path.split('.').pop() ?? ''] ?? 'text/plain' }).end(bytes),
        () => response.writeHead(404).end(),
      )
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Site(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, server)
  }

  async close(): Promise<void> {
    this.server.closeAllConnections()
    this.server.close()
    await once(this.server, 'close')
  }
}
