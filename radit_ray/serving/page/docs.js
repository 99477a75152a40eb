// The OpenAPI document as a page, without a library from elsewhere.

const { paths, components } = await (await fetch("openapi.json")).json();

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const resolved = (schema) =>
  schema?.$ref ? components.schemas[schema.$ref.split("/").pop()] : schema ?? {};

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => element("tr", {},
    element("td", {}, element("code", {}, name)),
    element("td", {}, kind(field)),
    element("td", {}, required.has(name) ? "required" : "default" in field ? JSON.stringify(field.default) : ""),
    element("td", {}, field.description ?? "")));
  const heads = ["field", "kind", "default", ""].map((text) => element("th", {}, text));
  return element("div", { class: "scroll" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)));
}

function example(path, schema) {
  const body = {};
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    if (field.examples) body[name] = field.examples[0];
  }
  return `curl ${location.origin}${path} -H 'content-type: application/json' \\\n  -d '${JSON.stringify(body)}'`;
}

function endpoint(path, method, about) {
  const parts = [element("h2", {}, `${method.toUpperCase()} ${path}`), element("p", {}, about.description ?? "")];
  const asked = resolved(about.requestBody?.content?.["application/json"]?.schema);
  if (asked.properties) parts.push(fields(asked), element("pre", {}, example(path, asked)));
  const given = about.responses?.["200"]?.content?.["application/json"]?.schema;
  if (given?.$ref) parts.push(element("p", { class: "quiet" }, `Response: ${kind(given)}`), fields(resolved(given)));
  return element("article", {}, ...parts);
}

document.getElementById("endpoints").append(...Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, about]) => endpoint(path, method, about))));
