import tseslint from "typescript-eslint";

// Rules that keep the promises of docs/conventions.md; style is left to the reader's eye.
const clonedGenerator = "cloned by a restore: use kernelRandomBytes";

export default tseslint.config(
  { ignores: ["dist/", "node_modules/", "test-output/", "src/shared/protocol/gen/", "**/*.js", "**/*.cjs", "**/*.mjs"] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/require-await": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      "no-empty": ["error", { allowEmptyCatch: false }],
      eqeqeq: "error",
    },
  },
  {
    files: ["**/*.test.ts"],
    // node:test's describe and test return promises that the runner itself awaits.
    rules: { "@typescript-eslint/no-floating-promises": ["error", { allowForKnownSafeCalls: [{ from: "package", name: ["test", "describe", "it", "suite"], package: "node:test" }] }] },
  },
  {
    // A restored VM is a clone: every generator in Node's own memory is cloned with it. What runs in the
    // guest draws from the kernel only (src/shared/linux/random.ts).
    files: ["src/guest/**/*.ts", "src/shared/**/*.ts"],
    rules: {
      "no-restricted-properties": ["error", { object: "Math", property: "random", message: clonedGenerator }],
      "no-restricted-globals": ["error", { name: "crypto", message: clonedGenerator }],
      "no-restricted-imports": ["error", { paths: ["node:crypto", "crypto"].map((name) => ({ name, allowImportNames: ["createHash"], message: clonedGenerator })) }],
    },
  },
);
