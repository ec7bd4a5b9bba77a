// Tables whose rows stay the same elements while what stands in them changes, so that focus and selection stay too.
// Everything that comes from the gateway is put in as text.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Sets the text of an element if it is another: what a reader hears again, and what is laid out again, is what changed. */
export function put(place, text) {
  if (place.textContent !== text) {
    place.textContent = text;
  }
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function number(value) {
  return numbers.format(value);
}

/** 1:02:05 */
export function clock(millis) {
  const seconds = Math.max(0, Math.floor(millis / 1000));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/**
 * A table. A column has a `name`, and how it is shown: `text(item)`, or `fill(cell, item)` for what is more than text. With
 * `by(item)` the table can be sorted by it. The first is the head of its row.
 */
export class Table {
  constructor(table, columns, key) {
    this.body = table.tBodies[0];
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    this.order = null;
    this.changed = () => {};
    this.heads = columns.map((column, index) => this.head(column, index));
    table.tHead.append(element("tr", {}, ...this.heads));
  }

  head(column, index) {
    const head = element("th", { scope: "col" });
    if (column.number) {
      head.classList.add("number");
    }
    if (!column.by) {
      head.append(column.name);
      return head;
    }
    const button = element("button", { type: "button" }, column.name);
    button.addEventListener("click", () => {
      const again = this.order?.index === index;
      // What is most of a number is what one looks for.
      const down = again ? !this.order.down : Boolean(column.number);
      this.sortBy(index, down);
      this.changed();
    });
    head.append(button);
    return head;
  }

  sortBy(index, down) {
    this.order = { index, down };
    for (const [at, head] of this.heads.entries()) {
      if (at === index) {
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      } else {
        head.removeAttribute("aria-sort");
      }
    }
  }

  sorted(items) {
    if (!this.order) {
      return items;
    }
    const { by } = this.columns[this.order.index];
    const sign = this.order.down ? -1 : 1;
    return [...items].sort((one, other) => {
      const [a, b] = [by(one), by(other)];
      // What is not known comes last whatever the order.
      if (a === null || b === null) {
        return (a === null) - (b === null);
      }
      return sign * (a < b ? -1 : a > b ? 1 : 0);
    });
  }

  show(items) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const left = new Set(this.rows.keys());
    items.forEach((item, place) => {
      const key = this.key(item);
      left.delete(key);
      const row = this.rows.get(key) ?? this.row(key);
      this.columns.forEach((column, index) => {
        const cell = row.cells[index];
        if (column.fill) {
          column.fill(cell, item);
        } else {
          put(cell, column.text(item));
        }
      });
      if (this.body.rows[place] !== row) {
        this.body.insertBefore(row, this.body.rows[place] ?? null);
      }
    });
    for (const key of left) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
    // A row that was moved has lost it.
    if (focused?.isConnected && document.activeElement !== focused) {
      focused.focus({ preventScroll: true });
    }
  }

  row(key) {
    const cells = this.columns.map((column, index) => {
      const cell = index === 0 ? element("th", { scope: "row" }) : element("td");
      if (column.number) {
        cell.classList.add("number");
      }
      return cell;
    });
    const row = element("tr", {}, ...cells);
    this.rows.set(key, row);
    return row;
  }
}

/** Words in colour. */
export function pills(cell, words) {
  words.forEach(([word, kind, title], index) => {
    const pill = cell.children[index] ?? cell.appendChild(element("span"));
    pill.className = `pill ${kind}`;
    pill.title = title ?? "";
    put(pill, word);
  });
  while (cell.children.length > words.length) {
    cell.lastElementChild.remove();
  }
}

/** How much is used of a quota: a bar, and the numbers. */
export function quotaBar(cell, quota, what) {
  if (!quota) {
    put(cell, "–");
    return;
  }
  if (!cell.firstElementChild) {
    const bar = element("span", { class: "bar", role: "meter", "aria-valuemin": "0", "aria-valuemax": "100" }, element("i"));
    cell.replaceChildren(bar, element("span"));
  }
  const [bar, words] = cell.children;
  const share = quota.limit > 0 ? Math.min(100, (100 * quota.used) / quota.limit) : 0;
  const told = `${number(quota.used)} of ${number(quota.limit)}`;
  bar.setAttribute("aria-valuenow", String(Math.round(share)));
  bar.setAttribute("aria-label", what);
  bar.setAttribute("aria-valuetext", told);
  bar.classList.toggle("high", share >= 80);
  bar.firstElementChild.style.inlineSize = `${share.toFixed(1)}%`;
  put(words, told);
}
