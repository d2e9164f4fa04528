// SPDX-License-Identifier: Apache-2.0
// The whole command line against a hearthd that a test plays, over a real socket.
#include "cli/app.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/failure.h"
#include "cli/testing/fake_hearthd.h"
#include "google/rpc/error_details.pb.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

class Stage {
 public:
  Ended Run(std::vector<std::string> arguments, bool out_is_tty = false) {
    std::ostringstream out;
    std::ostringstream err;
    arguments.insert(arguments.end(), {"--socket", folder / "socket"});
    Ended ended;
    ended.code = RunApp(arguments, Terminal{out, err, out_is_tty}, &interrupt);
    ended.out = out.str();
    ended.err = err.str();
    return ended;
  }

  std::string MakeFunction(const std::string& config = R"({"runtime": "python3.11",
                                                          "handler": "app.handler"})") {
    const std::string path = folder / "thumbnail";
    std::filesystem::create_directories(path);
    std::ofstream(path + "/app.py") << "def handler(event, context): return event\n";
    std::ofstream(path + "/hearth.json") << config;
    return path;
  }

  TemporaryFolder folder;
  FakeHearthd hearthd{folder / "socket"};
  Interrupt interrupt;
};

hearth::v1::Invocation Finished(hearth::v1::Outcome outcome) {
  hearth::v1::Invocation invocation;
  invocation.set_name("tenants/default/functions/f/invocations/0193-1");
  invocation.set_outcome(outcome);
  invocation.set_start_kind(hearth::v1::WARM);
  invocation.set_guest_boot_id("7c01");
  invocation.mutable_timing()->mutable_total()->set_nanos(312'000'000);
  return invocation;
}

TEST_CASE("deploy: a first deployment makes all it needs and shows the stages") {
  Stage stage;
  const Ended ended = stage.Run({"deploy", stage.MakeFunction(), "--memory", "256"});
  CHECK(ended.err == "");
  CHECK(ended.code == kExitOk);
  // How long the upload takes is the machine's.
  CHECK_THAT(
      ended.out,
      Catch::Matches("deploy   thumbnail v1: upload [0-9]+\\.[0-9] s, image 0\\.2 s, boot 1\\.1 s, "
                     "init 2\\.0 s, snapshot 0\\.3 s\n[^]*"));
  CHECK(stage.hearthd.calls == std::vector<std::string>{"GetFunction", "CreateTenant",
                                                        "CreateFunction", "GetArtifact",
                                                        "UploadArtifact", "CreateVersion"});
  const auto& spec = stage.hearthd.created_version.version().spec();
  CHECK(spec.artifact() == "tenants/default/artifacts/sha256-uploaded");
  CHECK(spec.memory_mib() == 256);
  CHECK(stage.hearthd.created_version.request_id().size() == 36);
  CHECK(stage.hearthd.upload_header.size_bytes() ==
        static_cast<int64_t>(stage.hearthd.uploaded.size()));
}

TEST_CASE("deploy: what is there already is not uploaded again; JSON tells so") {
  Stage stage;
  stage.hearthd.function_exists = true;
  stage.hearthd.artifact_exists = true;
  const Ended ended = stage.Run({"deploy", stage.MakeFunction(), "--json"});
  CHECK(ended.code == kExitOk);
  const json document = json::parse(ended.out);
  CHECK(document["uploaded"] == false);
  CHECK(document["version"]["name"] == "tenants/default/functions/thumbnail/versions/1");
  CHECK(document["stages"][2]["stage"] == "image");
  CHECK(stage.hearthd.calls ==
        std::vector<std::string>{"GetFunction", "GetArtifact", "CreateVersion"});
}

TEST_CASE(
    "deploy: a failed initialisation is told in the function's words, with the stages so far") {
  Stage stage;
  stage.hearthd.deploy_error.set_code(grpc::StatusCode::FAILED_PRECONDITION);
  stage.hearthd.deploy_error.set_message("SyntaxError: invalid syntax (app.py, line 3)");
  google::rpc::ErrorInfo info;
  info.set_reason("INIT_FAILED");
  stage.hearthd.deploy_error.add_details()->PackFrom(info);
  hearth::v1::FunctionError error;
  error.add_stack_trace("  File \"app.py\", line 3\n");
  stage.hearthd.deploy_error.add_details()->PackFrom(error);
  const Ended ended = stage.Run({"deploy", stage.MakeFunction()});
  CHECK(ended.code == kExitFailed);
  CHECK(ended.out == "");
  CHECK(ended.err.find("SyntaxError: invalid syntax (app.py, line 3)") != std::string::npos);
  CHECK(ended.err.find("INIT_FAILED") != std::string::npos);
  CHECK(ended.err.find("         File \"app.py\", line 3\n") != std::string::npos);
  CHECK(ended.err.find("hearth logs thumbnail") != std::string::npos);
}

TEST_CASE("deploy: an upload that is refused half-way says why") {
  Stage stage;
  stage.hearthd.upload_status = {grpc::StatusCode::RESOURCE_EXHAUSTED, "no disk space"};
  const std::string path = stage.MakeFunction();
  std::ofstream(path + "/big") << std::string(20'000'000, 'x');
  const Ended ended = stage.Run({"deploy", path});
  CHECK(ended.code == kExitRetry);
  CHECK(ended.err.find("cannot upload thumbnail: no disk space") != std::string::npos);
}

TEST_CASE("deploy: mistakes are found before anything is sent") {
  Stage stage;
  CHECK(stage.Run({"deploy", stage.folder / "none"}).code == kExitUsage);
  CHECK(stage.Run({"deploy", stage.MakeFunction("{")}).code == kExitUsage);
  CHECK(stage.Run({"deploy", stage.MakeFunction(), "--env", "novalue"}).code == kExitUsage);
  CHECK(stage.Run({"deploy", stage.MakeFunction(), "--memory", "0"}).code == kExitUsage);
  CHECK(stage.Run({"deploy", stage.MakeFunction(), "--name", "two words"}).code == kExitUsage);
  CHECK(stage.hearthd.calls.empty());
}

TEST_CASE("deploy: a folder that is not there is told by its name") {
  Stage stage;
  std::ofstream(stage.folder / "file") << "x";
  CHECK(stage.Run({"deploy", "no-such-folder"}).err ==
        "error  there is no folder no-such-folder\n");
  CHECK(stage.Run({"deploy", stage.folder / "file"}).err.find("file is no folder") !=
        std::string::npos);
}

TEST_CASE("deploy: the description reaches the version and the function, an old function too") {
  const std::string config = R"({"runtime": "base", "command": ["x"], "description": "Counts."})";
  Stage stage;
  REQUIRE(stage.Run({"deploy", stage.MakeFunction(config)}).code == kExitOk);
  CHECK(stage.hearthd.created_version.version().description() == "Counts.");
  CHECK(stage.hearthd.described == "Counts.");
  Stage again;
  again.hearthd.function_exists = true;
  REQUIRE(again.Run({"deploy", again.MakeFunction(config)}).code == kExitOk);
  CHECK(again.hearthd.calls[1] == "UpdateFunction description");
  CHECK(again.hearthd.described == "Counts.");
}

TEST_CASE("deploy: an interrupt cancels the operation, whenever it comes") {
  Stage stage;
  stage.hearthd.waits = 1000;
  stage.hearthd.waited = [&] { stage.interrupt.Raise(); };
  const Ended ended = stage.Run({"deploy", stage.MakeFunction()});
  CHECK(ended.code == kExitInterrupted);
  CHECK(ended.err.find("interrupted; the deployment was cancelled") != std::string::npos);
  CHECK(stage.hearthd.calls.back() == "CancelOperation operations/1");
}

TEST_CASE("invoke: payload and result of 6 MB pass, the file's ending names the type") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::SUCCEEDED);
  stage.hearthd.response.assign(6'000'000, '\xd8');
  const std::string payload(6'000'000, '\xff');
  std::ofstream(stage.folder / "cat.JPG", std::ios::binary) << payload;
  const Ended ended = stage.Run(
      {"invoke", "f", "--payload", stage.folder / "cat.JPG", "--output", stage.folder / "out"});
  CHECK(ended.code == kExitOk);
  CHECK(ended.out == "");
  CHECK(ended.err == "invoke   f succeeded in 312 ms (warm; run 0.0 ms), guest boot id 7c01\n");
  CHECK((stage.hearthd.invoke_payload == payload));
  CHECK(stage.hearthd.invoked.content_type() == "image/jpeg");
  CHECK(stage.hearthd.invoked.name() == "tenants/default/functions/f");
  CHECK(stage.hearthd.invoked.idempotency_key() == "");
  std::ifstream file(stage.folder / "out", std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  CHECK((bytes.str() == stage.hearthd.response));
  CHECK_FALSE(std::filesystem::exists(stage.folder / "out.partial"));
}

TEST_CASE("invoke: data is JSON or text, and the result goes to stdout alone") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::SUCCEEDED);
  stage.hearthd.response = "{\"n\": 1}";
  CHECK(stage.Run({"invoke", "f:2", "--data", "{\"a\": 1}", "-q"}).out == "{\"n\": 1}");
  CHECK(stage.hearthd.invoked.content_type() == "application/json");
  CHECK(stage.hearthd.invoked.name() == "tenants/default/functions/f/versions/2");
  CHECK(stage.Run({"invoke", "f", "--data", "plain", "-q"}).err == "");
  CHECK(stage.hearthd.invoked.content_type() == "text/plain");
  const json document = json::parse(stage.Run({"invoke", "f", "--json"}).out);
  CHECK(document["payload"]["n"] == 1);
  CHECK(document["invocation"]["outcome"] == "SUCCEEDED");
  stage.hearthd.response = "\xff\xfe";
  CHECK(json::parse(stage.Run({"invoke", "f", "--json"}).out)["payloadBase64"] == "//4=");
}

TEST_CASE("invoke: JSON nested too deep to be printed is passed as text") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::SUCCEEDED);
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  stage.hearthd.response = nested(1'000'000);
  const json deep = json::parse(stage.Run({"invoke", "f", "--json"}).out);
  CHECK((deep["payloadText"] == stage.hearthd.response));
  CHECK_FALSE(deep.contains("payload"));
  stage.hearthd.response = nested(100);
  CHECK(json::parse(stage.Run({"invoke", "f", "--json"}).out).contains("payload"));
}

TEST_CASE("invoke: a result that would command a terminal is not shown on one") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::SUCCEEDED);
  for (const char* evil : {"\033[2J",
                           "\xc2\x9b"
                           "2J",
                           "ab\b\bXY", "good\rbad", "\a"}) {
    stage.hearthd.response = evil;
    const Ended ended = stage.Run({"invoke", "f"}, /*out_is_tty=*/true);
    CHECK(ended.out == "");
    CHECK(ended.err.find("not for a terminal: give --output FILE") != std::string::npos);
    CHECK(stage.Run({"invoke", "f"}).out == evil);
  }
  stage.hearthd.response = "two\nlines, a\ttab, \xc3\xa4";
  CHECK(stage.Run({"invoke", "f"}, /*out_is_tty=*/true).out == stage.hearthd.response + "\n");
}

TEST_CASE("invoke: each outcome has its exit code, and no result that is not whole") {
  const std::pair<hearth::v1::Outcome, int> cases[] = {
      {hearth::v1::FUNCTION_ERROR, kExitFunctionError},
      {hearth::v1::TIMED_OUT, kExitTimedOut},
      {hearth::v1::OUT_OF_MEMORY, kExitOutOfMemory},
      {hearth::v1::INSTANCE_LOST, kExitInstanceLost}};
  for (const auto& [outcome, code] : cases) {
    Stage stage;
    stage.hearthd.invocation = Finished(outcome);
    stage.hearthd.response = "half";
    const Ended ended = stage.Run({"invoke", "f", "-q"});
    CHECK(ended.code == code);
    CHECK(ended.out == "");
    CHECK(ended.err.find("hearth logs f --invocation 0193-1") != std::string::npos);
  }
}

TEST_CASE("invoke: a function's error is shown with its stack trace") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::FUNCTION_ERROR);
  auto* error = stage.hearthd.invocation.mutable_error();
  error->set_type("ValueError");
  error->set_message("not a JPEG\033]0;evil\a");
  error->add_stack_trace("  File \"app.py\", line 7, in handler\n    open(x)\n");
  const Ended ended = stage.Run({"invoke", "f"});
  CHECK(ended.err.find("invoke   f failed by its own fault in 312 ms") == 0);
  CHECK(ended.err.find("\n         ValueError: not a JPEG?]0;evil?\n") != std::string::npos);
  CHECK(
      ended.err.find("\n           File \"app.py\", line 7, in handler\n             open(x)\n") !=
      std::string::npos);
}

TEST_CASE("invoke: a refusal before the payload is read is told, not a broken pipe") {
  Stage stage;
  stage.hearthd.invoke_status = {grpc::StatusCode::NOT_FOUND, "no function f"};
  std::ofstream(stage.folder / "big") << std::string(20'000'000, 'x');
  const Ended ended = stage.Run({"invoke", "f", "--payload", stage.folder / "big"});
  CHECK(ended.code == kExitFailed);
  CHECK(ended.err.find("cannot invoke f: no function f") != std::string::npos);
  CHECK(ended.err.find("hearth deploy DIR") != std::string::npos);
}

TEST_CASE("invoke: an answer without an end is no success") {
  Stage stage;
  stage.hearthd.cut_response = true;
  stage.hearthd.response = "half";
  const Ended ended = stage.Run({"invoke", "f"});
  CHECK(ended.code == kExitInstanceLost);
  CHECK(ended.out == "");
}

TEST_CASE(
    "invoke: a connection that breaks in the middle may have run it; a reason says that it did "
    "not") {
  Stage stage;
  stage.hearthd.invoke_status = {grpc::StatusCode::UNAVAILABLE, "Socket closed"};
  const Ended broken = stage.Run({"invoke", "f"});
  CHECK(broken.code == kExitInstanceLost);
  CHECK(broken.err.find("Socket closed; the function may have run") != std::string::npos);
  google::rpc::Status status;
  status.set_code(grpc::StatusCode::UNAVAILABLE);
  google::rpc::ErrorInfo info;
  info.set_reason("BOOT_FAILED");
  status.add_details()->PackFrom(info);
  stage.hearthd.invoke_status = {grpc::StatusCode::UNAVAILABLE, "no KVM",
                                 status.SerializeAsString()};
  const Ended refused = stage.Run({"invoke", "f"});
  CHECK(refused.code == kExitFailed);
  CHECK(refused.err.find("may have run") == std::string::npos);
}

TEST_CASE("invoke: an --output that cannot be opened is told before anything runs") {
  Stage stage;
  const Ended ended = stage.Run({"invoke", "f", "--output", stage.folder / "none/out"});
  CHECK(ended.code == kExitUsage);
  CHECK(ended.err.find("No such file or directory") != std::string::npos);
  CHECK(stage.Run({"invoke", "f", "--output", stage.folder.path}).code == kExitUsage);
  CHECK(stage.hearthd.invoked.name() == "");
}

TEST_CASE("invoke: a result that cannot be written has an exit code of its own") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::SUCCEEDED);
  stage.hearthd.response = "{}";
  const Ended ended = stage.Run({"invoke", "f", "--output", "/dev/full"});
  CHECK(ended.code == kExitResultLost);
  CHECK(ended.err.find("/dev/full: No space left on device") != std::string::npos);
  const Ended machines = stage.Run({"invoke", "f", "--output", "/dev/full", "--json"});
  CHECK(json::parse(machines.out)["error"]["code"] == "RESULT_LOST");
}

TEST_CASE("invoke: of a result that is not whole no file is left") {
  Stage stage;
  stage.hearthd.invocation = Finished(hearth::v1::FUNCTION_ERROR);
  stage.hearthd.response = "half";
  CHECK(stage.Run({"invoke", "f", "--output", stage.folder / "out"}).code == kExitFunctionError);
  CHECK_FALSE(std::filesystem::exists(stage.folder / "out"));
  CHECK_FALSE(std::filesystem::exists(stage.folder / "out.partial"));
}

TEST_CASE("invoke: a payload that cannot be read is told before anything is sent") {
  Stage stage;
  CHECK(stage.Run({"invoke", "f", "--payload", stage.folder / "none"}).code == kExitUsage);
  CHECK(stage.Run({"invoke", "f", "--payload", stage.folder.path}).err.find("Is a directory") !=
        std::string::npos);
  CHECK(stage.Run({"invoke", "f", "--payload", "x", "--data", "y"}).code == kExitUsage);
  CHECK(stage.hearthd.invoked.name() == "");
}

TEST_CASE("logs: lines carry time, invocation and source; JSON is one entry a line") {
  Stage stage;
  hearth::v1::LogEntry entry;
  entry.set_source(hearth::v1::LogEntry::STDERR);
  entry.set_invocation("tenants/default/functions/f/invocations/0193-abcd1234");
  entry.set_text("hello\033[31m");
  entry.set_dropped(3);
  stage.hearthd.log = {entry, entry};
  const Ended ended = stage.Run({"logs", "f", "--tail", "7", "--invocation", "0193-abcd1234"});
  CHECK(ended.out.find("(3 lines lost)\n") == 0);
  CHECK(ended.out.find(" abcd1234 err hello?[31m\n") != std::string::npos);
  CHECK(stage.hearthd.tailed.tail() == 7);
  CHECK(stage.hearthd.tailed.invocation() ==
        "tenants/default/functions/f/invocations/0193-abcd1234");
  std::istringstream lines(stage.Run({"logs", "f", "--json"}).out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    CHECK(json::parse(line)["source"] == "STDERR");
  }
  CHECK(count == 2);
}

TEST_CASE("list: all pages are shown, up to the limit") {
  Stage stage;
  stage.hearthd.function_count = 5;
  CHECK(json::parse(stage.Run({"list", "--json"}).out)["functions"].size() == 5);
  CHECK(json::parse(stage.Run({"list", "--limit", "3", "--json"}).out)["functions"].size() == 3);
  const Ended ended = stage.Run({"list"});
  CHECK(ended.out.find("FUNCTION") == 0);
  CHECK(ended.out.find("f4") != std::string::npos);
  CHECK(ended.out.find('\033') == std::string::npos);
}

TEST_CASE(
    "list: a tenant that is not there yet has nothing; other things are asked by their names") {
  Stage stage;
  stage.hearthd.list_status = {grpc::StatusCode::NOT_FOUND, "no tenant"};
  const Ended ended = stage.Run({"list"});
  CHECK(ended.code == kExitOk);
  CHECK(ended.err == "There are no functions yet: hearth deploy DIR\n");
  CHECK(stage.Run({"list", "instances", "--tenant", "acme"}).err == "0 instances running\n");
  CHECK(stage.hearthd.calls.back() == "ListInstances tenants/acme/functions/-");
  CHECK(stage.Run({"list", "versions"}).code == kExitUsage);
  CHECK(stage.Run({"list", "nonsense"}).code == kExitUsage);
}

TEST_CASE("what is kept by function takes no version, rather than pass over it") {
  Stage stage;
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"logs", "f:3"},
                                             {"usage", "f:3"},
                                             {"list", "instances", "f:3"},
                                             {"list", "invocations", "f:live"},
                                             {"list", "versions", "f:3"}}) {
    const Ended ended = stage.Run(command);
    CHECK(ended.code == kExitUsage);
    CHECK(ended.err.find("names a version, where only a function can be named") !=
          std::string::npos);
  }
  CHECK(stage.hearthd.calls.empty());
}

TEST_CASE("describe: an alias that is not there is told") {
  Stage stage;
  stage.hearthd.function_exists = true;
  const Ended ended = stage.Run({"describe", "f:stable"});
  CHECK(ended.code == kExitFailed);
  CHECK(ended.err.find("no such alias") != std::string::npos);
  CHECK(ended.out == "");
}

TEST_CASE("describe: the live version is shown, secrets are not") {
  Stage stage;
  stage.hearthd.function_exists = true;
  const Ended ended = stage.Run({"describe", "f"});
  CHECK(ended.out.find("live -> 3") != std::string::npos);
  CHECK(ended.out.find("runtime API, handler app.h") != std::string::npos);
  CHECK(ended.out.find("TOKEN") != std::string::npos);
  CHECK(ended.out.find("secret") == std::string::npos);
  CHECK(json::parse(stage.Run({"describe", "f:live", "--json"}).out)["version"]["state"] ==
        "READY");
}

TEST_CASE("delete: nobody is there to be asked, so it wants --yes") {
  Stage stage;
  CHECK(stage.Run({"delete", "f"}).code == kExitUsage);
  CHECK(stage.hearthd.calls.empty());
  CHECK(stage.Run({"delete", "f", "--yes"}).out == "deleted  f\n");
  CHECK(stage.Run({"delete", "f:2", "-y"}).code == kExitOk);
  CHECK(stage.hearthd.calls ==
        std::vector<std::string>{"DeleteFunction",
                                 "DeleteVersion tenants/default/functions/f/versions/2"});
}

TEST_CASE("usage: host and guest figures stand side by side") {
  Stage stage;
  auto* row = stage.hearthd.usage.add_rows();
  row->set_function("tenants/default/functions/f");
  row->mutable_usage()->mutable_billed()->set_invocations(2);
  row->mutable_usage()->mutable_billed()->set_memory_mib_ms(2048 * 1000);
  row->mutable_usage()->mutable_host()->set_cpu_ns(250'000'000);
  row->mutable_usage()->mutable_guest()->set_user_cpu_ns(200'000'000);
  (*row->mutable_outcomes())["TIMED_OUT"] = 1;
  const Ended ended = stage.Run({"usage", "f", "--since-hours", "1"});
  CHECK(ended.out.find("2.000 GB-s") != std::string::npos);
  CHECK(ended.out.find("250.0 ms") != std::string::npos);
  CHECK(ended.out.find("200.0 ms") != std::string::npos);
  CHECK(stage.hearthd.usage_request.start_time().seconds() > 0);
  CHECK(json::parse(stage.Run({"usage", "--json"}).out)["rows"].size() == 1);
}

TEST_CASE("a hearthd that is not there: why, and how to start it") {
  TemporaryFolder folder;
  const auto run = [](const std::string& socket) {
    std::ostringstream out;
    std::ostringstream err;
    Interrupt interrupt;
    const int code = RunApp({"list", "--socket", socket}, Terminal{out, err}, &interrupt);
    CHECK((code == kExitUnreachable || code == kExitUsage));
    CHECK(out.str().empty());
    return err.str();
  };
  CHECK(run(folder / "none").find("hearthd is not running: there is no socket") !=
        std::string::npos);
  CHECK(run(folder / "none").find("hearthd --help") != std::string::npos);
  { FakeHearthd gone(folder / "stale"); }
  std::ofstream(folder / "file") << "x";
  CHECK(run(folder / "file").find("is no socket") != std::string::npos);
  CHECK(run(std::string(200, 'x')).find("1 to 107 bytes") != std::string::npos);
}

TEST_CASE("a wrong command line is told in words, or as JSON") {
  Stage stage;
  CHECK(stage.Run({"delpoy", "x"}).err.find("there is no command 'delpoy'") != std::string::npos);
  const Ended ended = stage.Run({"invoke", "--json"});
  CHECK(ended.code == kExitUsage);
  CHECK(json::parse(ended.out)["error"]["code"] == "USAGE");
  CHECK(stage.Run({"--help"}).out.find("Exit codes:") != std::string::npos);
  CHECK(stage.Run({"deploy", "--help"}).out.find("memoryMib") != std::string::npos);
  CHECK(stage.Run({"--version"}).out == "hearth 0.1.0\n");
}

TEST_CASE("an interrupt gives up what is under way") {
  Stage stage;
  stage.interrupt.Raise();
  const Ended ended = stage.Run({"invoke", "f"});
  CHECK(ended.code == kExitInterrupted);
}

TEST_CASE("an interrupt ends an invocation that has started; one with a key is said to go on") {
  for (const char* const key : {"", "k"}) {
    Stage stage;
    stage.hearthd.hold_response = true;
    auto ended = std::async(std::launch::async, [&] {
      return stage.Run({"invoke", "f", "--idempotency-key", key});
    });
    stage.hearthd.response_held.get_future().wait();
    stage.interrupt.Raise();
    stage.hearthd.client_left.get_future().wait();
    const Ended interrupted = ended.get();
    CHECK(interrupted.code == kExitInterrupted);
    CHECK((interrupted.err.find("goes on") != std::string::npos) == (*key != '\0'));
    CHECK(stage.hearthd.invoked.idempotency_key() == key);
  }
}

}  // namespace
}  // namespace hearth::cli
