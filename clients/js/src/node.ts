/** What Springhead has for Node alone; everything else is in `springhead`. */

export { DamagedStore, FileStore, StoreInUse } from './sync/filestore.js'
