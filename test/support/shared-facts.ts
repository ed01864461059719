/** What one of several said of itself: value by name. */
export type Facts = Readonly<Record<string, string>>;

/** Which names have a value that two or more of them share, and a line that says so for each: `uuid: 20 compared, 0 shared`. */
export function countShared(all: readonly Facts[]): { readonly shared: readonly string[]; readonly text: string } {
  const counts = Object.keys(all[0] ?? {}).map((name) => {
    const values = all.map((facts) => facts[name]);
    // Nothing said is nothing of one's own.
    return { name, shared: values.filter((value) => value === undefined || value === "" || values.indexOf(value) !== values.lastIndexOf(value)).length };
  });
  return { shared: counts.filter(({ shared }) => shared > 0).map(({ name }) => name), text: counts.map(({ name, shared }) => `${name}: ${all.length} compared, ${shared} shared`).join("; ") };
}
