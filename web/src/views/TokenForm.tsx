// Asked for when the collector answers 401. The token stays in this tab.
import { useState } from "react";
import type { FormEvent } from "react";
import { submitToken } from "../state/actions";

export function TokenForm({ refused }: { refused: boolean }) {
  const [token, setToken] = useState("");
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (token.trim() !== "") submitToken(token.trim());
  };
  return (
    <form className="card token-form" onSubmit={submit} data-testid="token-form">
      <h1>This collector asks for a token</h1>
      <p>It is the content of the file named by <code>api_token_file</code> in the collector’s configuration. It is kept until you close this tab.</p>
      <label htmlFor="token">Access token</label>
      <input
        id="token"
        type="password"
        autoComplete="off"
        value={token}
        onChange={(event) => setToken(event.target.value)}
        aria-invalid={refused}
        aria-describedby={refused ? "token-refused" : undefined}
      />
      {refused && (
        <p id="token-refused" role="alert" className="field-error">
          The collector did not accept this token. Check for a missing character and try again.
        </p>
      )}
      <button type="submit" className="primary" disabled={token.trim() === ""}>
        Continue
      </button>
    </form>
  );
}
