// Requests to the plugin's API, and data that refreshes itself while somebody looks.

import { basePath, useCallback, useEffect, useRef, useState } from "./host.js";

const REFRESH_MS = 3000;

/** What the server said when it refused. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answered(response) {
  const isJson = (response.headers.get("content-type") ?? "").includes("application/json");
  const body = isJson ? await response.json() : null;
  if (response.ok) return body;
  const detail = body?.detail;
  const said = typeof detail === "string" ? detail : response.statusText || "no answer";
  throw new ApiError(response.status, said);
}

function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const text = new URLSearchParams(given).toString();
  return `${basePath()}checkpoints/api/${path}${text ? `?${text}` : ""}`;
}

/** Read; nothing changes on a GET. */
export async function read(path, query, signal) {
  const options = { credentials: "same-origin", headers: { accept: "application/json" }, signal };
  return answered(await fetch(address(path, query), options));
}

/** Act; always a JSON body. */
export async function act(path, body) {
  const options = {
    method: "POST",
    credentials: "same-origin",
    headers: { accept: "application/json", "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  return answered(await fetch(address(path), options));
}

/**
 * Data that is read again every few seconds while the page is visible.
 *
 * After a failed refresh the last data stay beside the error: a server that restarts empties no page.
 */
export function useData(path, query, everyMs = REFRESH_MS) {
  const key = path === null ? null : address(path, query);
  const [found, setFound] = useState({ key: null, data: null, error: null });
  const again = useRef(() => undefined);

  useEffect(() => {
    if (key === null) return undefined;
    const ending = new AbortController();
    let timer;
    const load = async () => {
      clearTimeout(timer);
      try {
        if (document.visibilityState !== "hidden") {
          const data = await read(path, query, ending.signal);
          setFound({ key, data, error: null });
        }
      } catch (error) {
        if (ending.signal.aborted) return;
        setFound((before) => ({ key, data: before.key === key ? before.data : null, error }));
      }
      if (!ending.signal.aborted) timer = setTimeout(load, everyMs);
    };
    again.current = load;
    document.addEventListener("visibilitychange", load);
    load();
    return () => {
      ending.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", load);
    };
    // The key says all of path and query.
  }, [key, everyMs]);

  const refresh = useCallback(() => again.current(), []);
  const mine = found.key === key ? found : { data: null, error: null };
  return { data: mine.data, error: mine.error, isLoading: !mine.data && !mine.error, refresh };
}
