/** Files that the user picks or drops, with the folder that contains them. */

export interface Found {
  readonly file: File;
  /** The name of the folder that contains it; null if there is none. */
  readonly folder: string | null;
}

export function picked(files: FileList | null): Found[] {
  return ordered([...(files ?? [])].map((file) => ({ file, folder: folderOf(file.webkitRelativePath) })));
}

/** Sorted by folder and name: browsers list the files of folders in any order. */
function ordered(found: readonly Found[]): Found[] {
  const key = ({ file, folder }: Found) => `${folder ?? ""}/${file.name}`;
  return [...found].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** Must be called during the event: afterwards the items are gone. */
export async function droppedFiles(transfer: DataTransfer): Promise<Found[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const files = [...transfer.files].map((file) => ({ file, folder: null }));
  if (entries.every((entry) => entry === null)) return files;
  return ordered((await Promise.all(entries.map((entry) => (entry === null ? [] : walked(entry))))).flat());
}

async function walked(entry: FileSystemEntry): Promise<Found[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ file, folder: folderOf(entry.fullPath.replace(/^\//, "")) }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: Found[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    for (const one of some) found.push(...(await walked(one)));
  }
}

function folderOf(path: string): string | null {
  const parts = path.split("/");
  return parts.length > 1 ? parts[parts.length - 2] : null;
}

/** Files that operating systems create in folders. */
export function isHidden({ file }: Found): boolean {
  return file.name.startsWith(".") || file.name === "Thumbs.db" || file.name === "desktop.ini";
}
