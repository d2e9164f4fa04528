// SPDX-License-Identifier: Apache-2.0
// `hearth invoke`: one run of a function, its result, and what is worth knowing about it.
#include <optional>
#include <thread>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "cli/payload.h"

namespace hearth::cli {
namespace {

using hearth::v1::Invocation;
using hearth::v1::InvokeStreamRequest;
using hearth::v1::InvokeStreamResponse;

constexpr size_t kPayloadChunkBytes = 512 * 1024;

struct Result {
  Invocation invocation;
  std::string content_type;
  std::string payload;
};

using Stream = grpc::ClientReaderWriter<InvokeStreamRequest, InvokeStreamResponse>;

// Sends the request and all of the payload; ends early when the server has answered already.
void SendAll(Stream* stream, const InvokeStreamRequest& start, const std::string& payload) {
  bool going = stream->Write(start);
  InvokeStreamRequest part;
  for (size_t sent = 0; going && sent < payload.size(); sent += kPayloadChunkBytes) {
    part.set_chunk(payload.substr(sent, kPayloadChunkBytes));
    going = stream->Write(part);
  }
  stream->WritesDone();
}

CliError MayHaveRun(const FunctionRef& function, const std::string& why) {
  Failure failure;
  failure.exit_code = kExitInstanceLost;
  failure.code = "DATA_LOSS";
  failure.message = why + "; the function may have run";
  failure.advice = {"`hearth list invocations " + function.function + "` shows what is known."};
  return CliError(std::move(failure));
}

// hearthd's own errors have a reason, and mean that nothing ran. These codes without one are
// gRPC's, for a connection that broke in the middle.
bool Broke(const Failure& failure) {
  return failure.reason.empty() && (failure.code == "UNAVAILABLE" || failure.code == "CANCELLED" ||
                                    failure.code == "INTERNAL" || failure.code == "UNKNOWN");
}

Result Run(Session& session, const FunctionRef& function, const InvokeOptions& options,
           const Payload& payload) {
  Client& client = session.client();
  grpc::ClientContext context;  // Without a deadline: the version's own time-out holds.
  const Interrupt::Scope scope(client.interrupt(), [&] { context.TryCancel(); });
  auto stream = client.invocations->InvokeStream(&context);
  InvokeStreamRequest start;
  start.mutable_start()->set_name(function.Name());
  start.mutable_start()->set_content_type(payload.content_type);
  // Only the user's own: an invocation with a key goes on when its client leaves.
  start.mutable_start()->set_idempotency_key(options.idempotency_key);
  start.mutable_start()->set_client_context(options.client_context);

  Result result;
  bool finished = false;
  {
    // Both ways at once: a server may answer before it has read everything.
    std::jthread sender([&] { SendAll(stream.get(), start, payload.bytes); });
    InvokeStreamResponse part;
    while (stream->Read(&part)) {
      if (part.has_started()) {
        result.content_type = part.started().content_type();
      } else if (part.has_finished()) {
        result.invocation = part.finished();
        finished = true;
      } else {
        result.payload += part.chunk();
      }
    }
  }
  const grpc::Status status = stream->Finish();
  if (client.interrupt()->raised() && !finished) {
    Failure failure;
    failure.exit_code = kExitInterrupted;
    failure.code = "CANCELLED";
    if (options.idempotency_key.empty()) {
      failure.message = "interrupted; the invocation was given up";
    } else {
      failure.message = "interrupted; an invocation with a key goes on";
      failure.advice = {"The same command again waits for its answer."};
    }
    throw CliError(std::move(failure));
  }
  if (!status.ok()) {
    Failure failure = FromStatus(status, "invoke " + function.function);
    if (Broke(failure)) {
      throw MayHaveRun(function, "the connection to hearthd broke: " + status.error_message());
    }
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
      failure.advice.push_back("`hearth deploy DIR` makes a function.");
    }
    throw CliError(std::move(failure));
  }
  if (!finished) throw MayHaveRun(function, "hearthd ended the answer before its end");
  return result;
}

std::string StartText(const Invocation& invocation) {
  switch (invocation.start_kind()) {
    case hearth::v1::COLD:
      return "cold: boot " + FormatDuration(ToSeconds(invocation.timing().boot())) + ", init " +
             FormatDuration(ToSeconds(invocation.timing().init()));
    case hearth::v1::WARM:
      return "warm";
    case hearth::v1::RESTORED:
      return "restored in " + FormatDuration(ToSeconds(invocation.timing().restore()));
    default:
      return "start unknown";
  }
}

struct OutcomeText {
  int exit_code;
  const char* text;
};

OutcomeText Describe(hearth::v1::Outcome outcome) {
  switch (outcome) {
    case hearth::v1::SUCCEEDED:
      return {kExitOk, "succeeded"};
    case hearth::v1::FUNCTION_ERROR:
      return {kExitFunctionError, "failed by its own fault"};
    case hearth::v1::TIMED_OUT:
      return {kExitTimedOut, "was ended at its time-out"};
    case hearth::v1::OUT_OF_MEMORY:
      return {kExitOutOfMemory, "was ended: it used up its memory"};
    case hearth::v1::INSTANCE_LOST:
      return {kExitInstanceLost, "was lost: its microVM ended under it"};
    default:
      return {kExitFailed, "ended in an unknown way"};
  }
}

const char* AdviceFor(hearth::v1::Outcome outcome) {
  switch (outcome) {
    case hearth::v1::TIMED_OUT:
      return "Give it longer with timeoutSeconds in hearth.json, or let it do less.";
    case hearth::v1::OUT_OF_MEMORY:
      return "Give it more with memoryMib in hearth.json, or let it need less.";
    case hearth::v1::INSTANCE_LOST:
      return "It may have run in part: repeat it only if that does no harm.";
    default:
      return nullptr;
  }
}

std::string ErrorText(const hearth::v1::FunctionError& error) {
  std::string text;
  if (!error.type().empty() || !error.message().empty()) {
    text = error.type() + (error.type().empty() || error.message().empty() ? "" : ": ") +
           error.message();
  }
  if (error.signal() != 0) {
    text += (text.empty() ? "" : "; ") + std::string("its process was ended by signal ") +
            std::to_string(error.signal());
  } else if (error.exit_code() != 0) {
    text += (text.empty() ? "" : "; ") + std::string("its process exited with code ") +
            std::to_string(error.exit_code());
  }
  return text;
}

// Where the start's time went, part by part.
std::string PartsText(const hearth::v1::Timing& timing) {
  std::string text;
  const auto add = [&](const char* name, const google::protobuf::Duration& duration) {
    if (ToSeconds(duration) <= 0) return;
    text +=
        (text.empty() ? "" : ", ") + std::string(name) + " " + FormatDuration(ToSeconds(duration));
  };
  add("queued", timing.queued());
  add("boot", timing.boot());
  add("init", timing.init());
  add("load", timing.restore_load());
  add("machine", timing.restore_machine());
  add("agent", timing.restore_agent());
  add("identity", timing.restore_identity());
  add("of it hooks", timing.restore_hooks());
  add("run", timing.execution());
  return text;
}

void Remark(const Terminal& terminal, const FunctionRef& function, const Invocation& invocation,
            bool verbose) {
  const OutcomeText outcome = Describe(invocation.outcome());
  const bool good = outcome.exit_code == kExitOk;
  std::ostream& err = terminal.err;
  err << (good ? terminal.Green("invoke") : terminal.Red("invoke")) << "   " << function.function
      << " " << outcome.text << " in " << FormatDuration(ToSeconds(invocation.timing().total()))
      << " (" << StartText(invocation) << "; run "
      << FormatDuration(ToSeconds(invocation.timing().execution())) << "), guest boot id "
      << SafeText(invocation.guest_boot_id()) << "\n";
  if (verbose) {
    err << "         " << PartsText(invocation.timing()) << "\n"
        << "         instance " << SafeText(LastSegment(invocation.instance())) << ", version "
        << SafeText(LastSegment(invocation.version())) << "\n";
  }
  if (good) return;
  if (const std::string text = ErrorText(invocation.error()); !text.empty()) {
    err << "         " << SafeText(text) << "\n";
  }
  for (const std::string& line : invocation.error().stack_trace()) {
    std::string safe = SafeText(line);
    while (!safe.empty() && safe.back() == '\n') safe.pop_back();
    for (size_t at = 0; (at = safe.find('\n', at)) != std::string::npos; at += 10) {
      safe.replace(at, 1, "\n         ");
    }
    err << "         " << safe << "\n";
  }
  if (const char* advice = AdviceFor(invocation.outcome())) err << "  -->    " << advice << "\n";
  err << "  -->    hearth logs " << function.function << " --invocation "
      << SafeText(LastSegment(invocation.name())) << "\n";
}

nlohmann::json ResultJson(const Result& result, bool with_payload) {
  nlohmann::json json = {{"invocation", ToJson(result.invocation)},
                         {"contentType", result.content_type},
                         {"payloadBytes", result.payload.size()}};
  if (!with_payload) return json;
  if (nlohmann::json value = ParseForeign(result.payload); !value.is_discarded()) {
    json["payload"] = std::move(value);
  } else if (IsUtf8(result.payload)) {
    json["payloadText"] = result.payload;
  } else {
    json["payloadBase64"] = Base64(result.payload);
  }
  return json;
}

void Show(const Terminal& terminal, const Result& result) {
  if (terminal.out_is_tty &&
      (!IsUtf8(result.payload) || SafeText(result.payload) != result.payload)) {
    terminal.err << "  -->    the result is " << SafeText(result.content_type) << ", "
                 << FormatBytes(static_cast<int64_t>(result.payload.size()))
                 << ", not for a terminal: give --output FILE\n";
    return;
  }
  terminal.out << result.payload;
  if (terminal.out_is_tty && !result.payload.empty() && result.payload.back() != '\n') {
    terminal.out << "\n";
  }
}

}  // namespace

int Invoke(Session& session, const InvokeOptions& options) {
  const FunctionRef function = ParseFunctionRef(options.name, session.options.tenant);
  const Payload payload = ReadPayload(options);
  std::optional<ResultFile> file;
  if (!options.output_file.empty()) file.emplace(options.output_file);
  Result result;
  {
    ProgressLine progress(session.terminal);
    if (!session.options.quiet) {
      progress.Show("invoke   " + function.function + ": " +
                    FormatBytes(static_cast<int64_t>(payload.bytes.size())) + " ...");
    }
    result = Run(session, function, options, payload);
  }
  const int exit_code = Describe(result.invocation.outcome()).exit_code;
  const bool succeeded = exit_code == kExitOk;
  // Unless it succeeded the bytes are not a whole response.
  if (succeeded && file) file->Keep(result.payload);
  const Terminal& terminal = session.terminal;
  if (session.options.json) {
    terminal.out << JsonText(ResultJson(result, /*with_payload=*/!file));
  } else if (succeeded && !file) {
    Show(terminal, result);
  }
  if (!terminal.out.flush() && succeeded) throw ResultLost("stdout");
  if (!session.options.json && (!session.options.quiet || !succeeded)) {
    Remark(terminal, function, result.invocation, options.verbose);
  }
  return exit_code;
}

}  // namespace hearth::cli
