/** Persistent storage: one IndexedDB store of values by key. */

const NAME = "adabet-onnx";
const STORE = "kept";

/** Only the first failure is reported; everything stored before is kept. */
export class Store {
  private constructor(private readonly database: IDBDatabase | null) {}

  /** Opens the store; if the browser does not allow it (a private window), nothing is persisted. */
  static async open(): Promise<Store> {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE);
      const database = await finished(request);
      return new Store(database);
    } catch {
      return new Store(null);
    }
  }

  get works(): boolean {
    return this.database !== null;
  }

  async get<T>(key: string): Promise<T | undefined> {
    if (this.database === null) return undefined;
    return (await finished(this.database.transaction(STORE).objectStore(STORE).get(key))) as T | undefined;
  }

  /** All values whose key has this prefix, by key. */
  async all<T>(prefix: string): Promise<T[]> {
    if (this.database === null) return [];
    return (await finished(this.database.transaction(STORE).objectStore(STORE).getAll(range(prefix)))) as T[];
  }

  /** Write several values atomically. */
  async put(values: { readonly [key: string]: unknown }): Promise<void> {
    await this.change((store) => {
      for (const [key, value] of Object.entries(values)) store.put(value, key);
    });
  }

  /** Delete all values whose key has this prefix. */
  async drop(...prefixes: readonly string[]): Promise<void> {
    await this.change((store) => {
      for (const prefix of prefixes) store.delete(range(prefix));
    });
  }

  private async change(work: (store: IDBObjectStore) => void): Promise<void> {
    const database = this.database;
    if (database === null) return;
    await new Promise<void>((resolve, reject) => {
      const transaction = database.transaction(STORE, "readwrite");
      transaction.oncomplete = () => resolve();
      transaction.onabort = () =>
        reject(transaction.error ?? new DOMException("The browser stopped storing.", "AbortError"));
      try {
        work(transaction.objectStore(STORE));
      } catch (error) {
        transaction.abort();
        reject(error);
      }
    });
  }
}

function range(prefix: string): IDBKeyRange {
  return IDBKeyRange.bound(prefix, `${prefix}\uffff`);
}

function finished<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
