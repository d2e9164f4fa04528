// SPDX-License-Identifier: Apache-2.0
// The Runtime API over real sockets, one loop, a delegate that remembers.
#include "agent/runtime_api.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace hearth::agent {
namespace {

using agent::v1::FunctionError;

struct Recorder : RuntimeApiDelegate {
  void OnRuntimeIdle() override { ++idle; }
  void OnRuntimeSuspended() override { ++suspended; }
  void OnInitError(FunctionError error) override { init_error = error; }
  void OnRestoreError(FunctionError error) override { restore_error = error; }
  void OnResponseBegin(const std::string& type) override {
    ++begins;
    content_type = type;
    response.clear();
  }
  void OnResponseData(absl::string_view data) override {
    response.append(data.data(), data.size());
  }
  void OnResponseEnd(const FunctionError* error) override {
    ++ends;
    response_error = error == nullptr ? std::nullopt : std::optional<FunctionError>(*error);
  }
  void OnInvocationError(FunctionError error) override { invocation_error = error; }
  int idle = 0;
  int suspended = 0;
  int begins = 0;
  int ends = 0;
  std::string content_type;
  std::string response;
  std::optional<FunctionError> init_error, restore_error, response_error, invocation_error;
};

class Client {
 public:
  Client(EventLoop* loop, uint16_t port) : loop_(loop), socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  }
  // Sends in pieces as the socket takes them, running the server in between.
  void Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count =
          send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count > 0) bytes.remove_prefix(static_cast<size_t>(count));
      if (count < 0 && errno != EAGAIN) return;
      REQUIRE(loop_->RunOnce(count > 0 ? 0 : 10).ok());
    }
  }
  void EndSending() { shutdown(socket_.get(), SHUT_WR); }
  void Close() { socket_.reset(); }
  // Whether there is an answer, or the end, without waiting longer than what is under way takes.
  bool HasAnswer() {
    for (int i = 0; i < 20; ++i) REQUIRE(loop_->RunOnce(0).ok());
    Fill(MSG_DONTWAIT);
    return !text_.empty();
  }
  // One whole answer, head and body.
  std::string Answer() {
    while (true) {
      const size_t end = text_.find("\r\n\r\n");
      if (end != std::string::npos) {
        const size_t at = text_.find("Content-Length: ");
        const size_t length = at < end ? std::stoul(text_.substr(at + 16)) : 0;
        if (text_.size() >= end + 4 + length) {
          const std::string answer = text_.substr(0, end + 4 + length);
          text_.erase(0, answer.size());
          return answer;
        }
      }
      REQUIRE(loop_->RunOnce(0).ok());
      if (!Fill(MSG_DONTWAIT)) return text_;
    }
  }
  std::string Exchange(absl::string_view request) {
    Send(request);
    return Answer();
  }

 private:
  bool Fill(int flags) {
    char buffer[65536];
    const ssize_t got = recv(socket_.get(), buffer, sizeof(buffer), flags);
    if (got > 0) text_.append(buffer, static_cast<size_t>(got));
    return got > 0 || (got < 0 && errno == EAGAIN);
  }
  EventLoop* const loop_;
  UniqueFd socket_;
  std::string text_;
};

struct Fixture {
  Fixture() {
    loop = *EventLoop::Create();
    api = *RuntimeApi::Create(loop.get(), 0, &recorder);
    api->RuntimeStarted(0);
  }
  Client Connect() { return Client(loop.get(), api->port()); }
  // A runtime that has asked for an invocation and got `id`.
  Client Invoked(const std::string& id, const std::string& payload = "payload") {
    Client client = Connect();
    client.Send(kNext);
    REQUIRE_FALSE(client.HasAnswer());
    Offer(id, payload);
    REQUIRE(absl::EndsWith(client.Answer(), "\r\n\r\n" + payload));
    return client;
  }
  void Offer(const std::string& id, const std::string& payload = "payload") {
    RuntimeInvocation invocation;
    invocation.id = id;
    invocation.deadline_unix_ms = 1234567890123;
    invocation.payload = std::make_shared<const std::string>(payload);
    REQUIRE(api->Offer(std::move(invocation)));
  }
  static constexpr absl::string_view kNext =
      "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";
  Recorder recorder;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<RuntimeApi> api;
};

std::string Post(const std::string& path, const std::string& body,
                 const std::string& headers = "") {
  return absl::StrCat("POST /2018-06-01/runtime/", path,
                      " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n", headers,
                      "\r\n", body);
}

bool Is(const std::string& answer, int status, const std::string& type) {
  INFO(answer);
  CHECK(absl::StartsWith(answer, absl::StrCat("HTTP/1.1 ", status, " ")));
  CHECK(absl::StrContains(answer, type));
  return absl::StartsWith(answer, absl::StrCat("HTTP/1.1 ", status, " ")) &&
         absl::StrContains(answer, type);
}

TEST_CASE("runtime api: next blocks until there is an invocation and answers with its headers") {
  Fixture f;
  Client client = f.Connect();
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.idle == 1);
  REQUIRE(f.api->phase() == RuntimePhase::kIdle);
  RuntimeInvocation invocation;
  invocation.id = "id-1";
  invocation.deadline_unix_ms = 1234567890123;
  invocation.content_type = "image/jpeg\r\nX-Evil: 1";
  invocation.function_arn = "arn";
  invocation.trace_id = "Root=1";
  invocation.payload = std::make_shared<const std::string>(std::string("a\0b", 3));
  REQUIRE(f.api->Offer(std::move(invocation)));
  REQUIRE(client.Answer() ==
          "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg  X-Evil: 1\r\n"
          "Lambda-Runtime-Aws-Request-Id: id-1\r\nLambda-Runtime-Deadline-Ms: 1234567890123\r\n"
          "Lambda-Runtime-Invoked-Function-Arn: arn\r\nLambda-Runtime-Trace-Id: Root=1\r\n"
          "Content-Length: 3\r\n\r\n" +
              std::string("a\0b", 3));
}

TEST_CASE("runtime api: asking again while an event is in flight serves it again") {
  Fixture f;
  Client first = f.Invoked("id-1", "event");
  Client second = f.Connect();
  REQUIRE(absl::EndsWith(second.Exchange(Fixture::kNext), "event"));
  REQUIRE(absl::EndsWith(first.Exchange(Fixture::kNext), "event"));
  REQUIRE(f.recorder.idle == 1);
}

TEST_CASE(
    "runtime api: a response is accepted once, then next is asked for on the same connection") {
  Fixture f;
  Client client = f.Invoked("id-1");
  REQUIRE(
      Is(client.Exchange(Post("invocation/id-1/response", "answer", "Content-Type: text/x\r\n")),
         202, "{\"status\":\"OK\"}"));
  REQUIRE(f.recorder.response == "answer");
  REQUIRE(f.recorder.content_type == "text/x");
  REQUIRE(f.recorder.ends == 1);
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", "again")), 403,
             "InvalidStateTransition"));
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/error", "{}")), 403, "InvalidStateTransition"));
  REQUIRE(f.recorder.ends == 1);
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.idle == 2);
  Client other = f.Connect();
  REQUIRE(Is(other.Exchange(Post("invocation/id-1/response", "late")), 400, "InvalidRequestID"));
}

TEST_CASE("runtime api: wrong ids, paths, methods and moments are told apart") {
  Fixture f;
  Client client = f.Connect();
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", "x")), 400, "InvalidRequestID"));
  REQUIRE(Is(client.Exchange(Post("invocation/next", "x")), 404, "NotFound"));
  REQUIRE(Is(client.Exchange("GET / HTTP/1.1\r\n\r\n"), 404, "NotFound"));
  REQUIRE(Is(client.Exchange("PUT /2018-06-01/runtime/init/error HTTP/1.1\r\n\r\n"), 404, ""));
  Client invoked = f.Invoked("id-1");
  REQUIRE(Is(invoked.Exchange(Post("invocation/id-2/response", "x")), 400, "InvalidRequestID"));
  REQUIRE(Is(invoked.Exchange(Post("invocation/id-2/error", "x")), 400, "InvalidRequestID"));
  REQUIRE(Is(invoked.Exchange(Post("init/error", "{}")), 403, "InvalidStateTransition"));
  REQUIRE(Is(invoked.Exchange(Post("invocation/id-1/response", "x",
                                   "Lambda-Runtime-Function-Response-Mode: fast\r\n")),
             400, "InvalidFunctionResponseMode"));
  REQUIRE(f.api->phase() == RuntimePhase::kInvoking);
  REQUIRE(f.recorder.begins == 0);
}

TEST_CASE("runtime api: a response over the limit is refused, however its length is told") {
  Fixture f;
  f.api->RuntimeExited();
  f.api->RuntimeStarted(100);
  Client client = f.Invoked("id-1");
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", std::string(101, 'x'))), 413,
             "RequestEntityTooLarge"));
  const std::string chunked = absl::StrCat(
      "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
      "\r\n65\r\n",
      std::string(101, 'x'), "\r\n0\r\n\r\n");
  REQUIRE(Is(client.Exchange(chunked), 413, "RequestEntityTooLarge"));
  REQUIRE(f.recorder.begins == 0);
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", std::string(100, 'x'))), 202, "OK"));
  REQUIRE(f.recorder.response.size() == 100);
}

TEST_CASE("runtime api: an event whose response was too long is not served again") {
  Fixture f;
  for (const bool chunked : {false, true}) {
    Client client = f.Invoked("id-1");
    const std::string body(7 * 1024 * 1024, 'x');
    const std::string request =
        chunked ? absl::StrCat(
                      "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n700000\r\n",
                      body, "\r\n0\r\n\r\n")
                : Post("invocation/id-1/response", body);
    REQUIRE(Is(client.Exchange(request), 413, "RequestEntityTooLarge"));
    REQUIRE(f.api->phase() == RuntimePhase::kRefused);
    REQUIRE_FALSE(f.recorder.invocation_error.has_value());
    client.Send(Fixture::kNext);
    REQUIRE_FALSE(client.HasAnswer());
    REQUIRE(f.api->phase() == RuntimePhase::kIdle);
    REQUIRE(f.recorder.invocation_error->type() == "Function.ResponseSizeTooLarge");
    f.recorder.invocation_error.reset();
  }
  REQUIRE(f.recorder.idle == 4);
}

TEST_CASE("runtime api: after a refused response a runtime may still say what came of it") {
  Fixture f;
  f.api->RuntimeExited();
  f.api->RuntimeStarted(100);
  Client client = f.Invoked("id-1");
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", std::string(101, 'x'))), 413, ""));
  REQUIRE(
      Is(client.Exchange(Post("invocation/id-1/error", "{\"errorType\":\"Mine\"}")), 202, "OK"));
  REQUIRE(f.recorder.invocation_error->type() == "Mine");
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.invocation_error->type() == "Mine");
}

TEST_CASE("runtime api: a slow error for an invocation that is over is not the next one's") {
  Fixture f;
  Client slow = f.Connect();
  Client client = f.Invoked("id-1");
  const std::string error = Post("invocation/id-1/error", "{\"errorType\":\"Late\"}");
  slow.Send(error.substr(0, error.size() - 3));
  REQUIRE_FALSE(slow.HasAnswer());
  REQUIRE(Is(client.Exchange(Post("invocation/id-1/response", "x")), 202, "OK"));
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  f.Offer("id-2");
  client.Answer();
  REQUIRE(Is(slow.Exchange(error.substr(error.size() - 3)), 400, "InvalidRequestID"));
  REQUIRE_FALSE(f.recorder.invocation_error.has_value());
  REQUIRE(f.api->phase() == RuntimePhase::kInvoking);
  REQUIRE(Is(client.Exchange(Post("invocation/id-2/response", "y")), 202, "OK"));
}

TEST_CASE("runtime api: six megabytes pass, with 100-continue") {
  Fixture f;
  Client client = f.Invoked("id-1");
  const std::string body(kMaxResponseBytes, 'b');
  const std::string request = Post("invocation/id-1/response", body, "Expect: 100-continue\r\n");
  client.Send(absl::string_view(request).substr(0, request.size() - body.size()));
  REQUIRE(client.Answer() == "HTTP/1.1 100 Continue\r\n\r\n");
  REQUIRE(Is(client.Exchange(body), 202, "OK"));
  REQUIRE(f.recorder.response == body);
}

TEST_CASE("runtime api: a response that is cut short is 400 and can be sent again") {
  Fixture f;
  Client client = f.Invoked("id-1");
  const std::string request = Post("invocation/id-1/response", "whole answer");
  client.Send(request.substr(0, request.size() - 3));
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.api->phase() == RuntimePhase::kResponding);
  // Meanwhile no one else may answer.
  Client other = f.Connect();
  REQUIRE(Is(other.Exchange(request), 403, "InvalidStateTransition"));
  client.EndSending();
  REQUIRE(Is(client.Answer(), 400, "TruncatedHTTPRequest"));
  REQUIRE(f.recorder.begins == 0);
  REQUIRE(Is(other.Exchange(request), 202, "OK"));
  REQUIRE(f.recorder.response == "whole answer");
}

TEST_CASE("runtime api: an event whose response was cut short is not served again") {
  Fixture f;
  Client client = f.Invoked("id-1");
  client.Send(
      "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\n"
      "Content-Length: 100\r\n\r\nhalf");
  REQUIRE_FALSE(client.HasAnswer());
  client.Close();
  Client other = f.Connect();
  other.Send(Fixture::kNext);
  REQUIRE_FALSE(other.HasAnswer());
  REQUIRE(f.recorder.invocation_error->type() == "Runtime.TruncatedResponse");
  REQUIRE(f.recorder.begins == 0);
  f.Offer("id-2");
  REQUIRE(absl::EndsWith(other.Answer(), "payload"));
}

TEST_CASE("runtime api: a streamed response arrives as it comes, its trailers say that it failed") {
  Fixture f;
  Client client = f.Invoked("id-1");
  const std::string head =
      "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\n"
      "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n"
      "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n";
  client.Send(head + "5\r\npart \r\n");
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.response == "part ");
  client.Send("3\r\ntwo\r\n");
  REQUIRE(Is(client.Exchange("0\r\n\r\n"), 202, "OK"));
  REQUIRE(f.recorder.response == "part two");
  REQUIRE(f.recorder.ends == 1);
  REQUIRE_FALSE(f.recorder.response_error.has_value());

  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  f.Offer("id-1");
  client.Answer();
  // {"errorMessage":"no"} in base64.
  REQUIRE(Is(client.Exchange(head + "1\r\nx\r\n0\r\nLambda-Runtime-Function-Error-Type: "
                                    "Function.Mid\r\nLambda-Runtime-Function-Error-Body: "
                                    "eyJlcnJvck1lc3NhZ2UiOiJubyJ9\r\n\r\n"),
             202, "OK"));
  REQUIRE(f.recorder.response_error->type() == "Function.Mid");
  REQUIRE(f.recorder.response_error->message() == "no");
}

TEST_CASE("runtime api: a streamed response whose connection breaks is an error, not a retry") {
  Fixture f;
  Client client = f.Invoked("id-1");
  client.Send(
      "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\n"
      "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5\r\nhalf ");
  REQUIRE_FALSE(client.HasAnswer());
  client.Close();
  Client other = f.Connect();
  REQUIRE(Is(other.Exchange(Post("invocation/id-1/response", "x")), 403, "InvalidStateTransition"));
  REQUIRE(f.recorder.response_error->type() == "Runtime.TruncatedResponse");
  REQUIRE(f.api->phase() == RuntimePhase::kResponded);
}

TEST_CASE("runtime api: errors carry type, message and trace; odd types become Unknown") {
  Fixture f;
  Client client = f.Connect();
  REQUIRE(Is(client.Exchange(Post("init/error",
                                  "{\"errorMessage\":\"bad\",\"errorType\":\"ImportError\","
                                  "\"stackTrace\":[\"a\",\"b\",3]}",
                                  "Lambda-Runtime-Function-Error-Type: Runtime.Import\r\n")),
             202, "OK"));
  REQUIRE(f.recorder.init_error->type() == "ImportError");
  REQUIRE(f.recorder.init_error->message() == "bad");
  REQUIRE(f.recorder.init_error->stack_trace_size() == 2);

  REQUIRE(ParseFunctionError("Runtime.Import", "{}").type() == "Runtime.Import");
  REQUIRE(ParseFunctionError("Function.x", "{}").type() == "Function.Unknown");
  REQUIRE(ParseFunctionError("anything", "").type() == "Runtime.Unknown");
  REQUIRE(ParseFunctionError("Runtime.", "").type() == "Runtime.Unknown");
  REQUIRE(ParseFunctionError("", "plain text").message() == "plain text");
  REQUIRE(ParseFunctionError("", "\xff\xfe").message() == "??");
  REQUIRE(ParseFunctionError("", "{\"errorMessage\": 5, \"stackTrace\": {}}").message() == "");
  REQUIRE(ParseFunctionError("", std::string(100'000, '[')).message().size() <= 16 * 1024);
}

TEST_CASE("http: what is no HTTP, and headers over the limit, end the connection alone") {
  Fixture f;
  const std::string long_header(20'000, 'x');
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 100; ++i) absl::StrAppend(&many, "h", i, ": x\r\n");
  for (const std::string& bytes :
       {std::string("\x16\x03\x01 hello"), "GET / HTTP/1.1\r\nx: " + long_header + "\r\n\r\n",
        "GET /" + long_header + " HTTP/1.1\r\n\r\n", many + "\r\n",
        std::string("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        std::string("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}) {
    Client client = f.Connect();
    INFO(bytes.substr(0, 40));
    REQUIRE(absl::StartsWith(client.Exchange(bytes), "HTTP/1.1 4"));
  }
  Client good = f.Connect();
  REQUIRE(Is(good.Exchange("GET / HTTP/1.1\r\n\r\n"), 404, "NotFound"));
}

TEST_CASE("http: requests that come together are answered in turn") {
  Fixture f;
  Client client = f.Invoked("id-1");
  const std::string both =
      Post("invocation/id-1/response", "one") + Post("invocation/id-1/response", "two");
  client.Send(both);
  REQUIRE(Is(client.Answer(), 202, "OK"));
  REQUIRE(Is(client.Answer(), 403, "InvalidStateTransition"));
  REQUIRE(f.recorder.response == "one");
}

TEST_CASE("http: a request that offers another protocol is answered as one that does not") {
  Fixture f;
  // As Java's HttpClient sends each one by default.
  const std::string offer =
      "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n";
  Client client = f.Connect();
  client.Send(absl::StrCat("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n", offer, "\r\n"));
  REQUIRE_FALSE(client.HasAnswer());
  f.Offer("id-1");
  REQUIRE(Is(client.Answer(), 200, "id-1"));
  const std::string post = Post("invocation/id-1/response", "answer", offer);
  client.Send(post.substr(0, post.size() - 6));
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(Is(client.Exchange("answer"), 202, "OK"));
  REQUIRE(f.recorder.response == "answer");
  REQUIRE(absl::StartsWith(f.Connect().Exchange("CONNECT x:1 HTTP/1.1\r\n\r\n"), "HTTP/1.1 4"));
}

TEST_CASE("http: connections over the limit wait until one closes") {
  Fixture f;
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 0; i < kMaxHttpConnections; ++i) {
    clients.push_back(std::make_unique<Client>(f.loop.get(), f.api->port()));
    clients.back()->Send("GET");
    REQUIRE_FALSE(clients.back()->HasAnswer());
  }
  Client late = f.Connect();
  late.Send("GET / HTTP/1.1\r\n\r\n");
  REQUIRE_FALSE(late.HasAnswer());
  clients.pop_back();
  REQUIRE(Is(late.Answer(), 404, "NotFound"));
}

TEST_CASE("runtime api: when the runtime exits its connections end, and another can start") {
  Fixture f;
  Client client = f.Invoked("id-1");
  f.api->RuntimeExited();
  REQUIRE(f.api->phase() == RuntimePhase::kAbsent);
  REQUIRE(client.Answer() == "");
  f.api->RuntimeStarted(0);
  Client again = f.Invoked("id-2");
  REQUIRE(Is(again.Exchange(Post("invocation/id-2/response", "x")), 202, "OK"));
}

constexpr absl::string_view kRestoreNext =
    "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHost: x\r\n\r\n";
constexpr absl::string_view kOurRestoreNext =
    "GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHearth-Runtime-Snapshot: 1\r\n\r\n";
constexpr absl::string_view kOurNext =
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHearth-Runtime-Snapshot: 1\r\n\r\n";

TEST_CASE("runtime api: restore/next waits for the restore, and its answer has no body") {
  Fixture f;
  Client client = f.Connect();
  client.Send(kRestoreNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.suspended == 1);
  REQUIRE(f.api->phase() == RuntimePhase::kSuspended);
  // Not before it was told to go on.
  Client other = f.Connect();
  REQUIRE(Is(other.Exchange(Fixture::kNext), 403, "InvalidStateTransition"));
  REQUIRE(Is(other.Exchange(Post("restore/error", "{}")), 403, "InvalidStateTransition"));
  REQUIRE(f.api->Restore(std::string("A=b\0", 4)));
  REQUIRE_FALSE(f.api->Restore(""));
  REQUIRE(client.Answer() == "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  // A connection that broke meanwhile: it is asked again.
  REQUIRE(Is(other.Exchange(kRestoreNext), 200, ""));
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.idle == 1);
  REQUIRE(Is(other.Exchange(kRestoreNext), 403, "InvalidStateTransition"));
  f.Offer("id");
  REQUIRE(absl::EndsWith(client.Answer(), "payload"));
}

TEST_CASE(
    "runtime api: a runtime that has hooks is told of the snapshot, and gets the environment") {
  Fixture f;
  Client client = f.Connect();
  client.Send(kOurNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.api->PrepareSnapshot());
  REQUIRE_FALSE(f.api->PrepareSnapshot());
  REQUIRE(client.Answer() == "HTTP/1.1 204 No Content\r\n\r\n");
  REQUIRE(f.api->phase() == RuntimePhase::kPreparing);
  REQUIRE(f.recorder.idle == 1);
  client.Send(kOurRestoreNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(f.recorder.suspended == 1);
  REQUIRE(f.api->Restore(std::string("A=b\0", 4)));
  REQUIRE(client.Answer() ==
          absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", std::string("A=b\0", 4)));
}

TEST_CASE("runtime api: a runtime that said nothing of hooks is not told, and stays idle") {
  Fixture f;
  Client client = f.Connect();
  client.Send(Fixture::kNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE_FALSE(f.api->PrepareSnapshot());
  REQUIRE_FALSE(f.api->Restore(""));
  REQUIRE(f.api->phase() == RuntimePhase::kIdle);
}

TEST_CASE("runtime api: an invocation without a snapshot lets a suspended runtime go on") {
  Fixture f;
  Client client = f.Connect();
  client.Send(kRestoreNext);
  REQUIRE_FALSE(client.HasAnswer());
  f.Offer("id");
  REQUIRE(Is(client.Answer(), 200, "Content-Length: 0"));
  REQUIRE(f.api->phase() == RuntimePhase::kRestoring);
  REQUIRE_FALSE(f.api->offered_was_taken());
  REQUIRE(Is(client.Exchange(Post("invocation/id/response", "x")), 403, "InvalidStateTransition"));
  client.Send(Fixture::kNext);
  REQUIRE(absl::EndsWith(client.Answer(), "payload"));
  REQUIRE(f.recorder.idle == 0);
  REQUIRE(Is(client.Exchange(Post("invocation/id/response", "x")), 202, "OK"));
}

TEST_CASE("runtime api: errors of hooks are reported before and after the restore") {
  Fixture before;
  Client client = before.Connect();
  client.Send(kOurNext);
  REQUIRE_FALSE(client.HasAnswer());
  REQUIRE(before.api->PrepareSnapshot());
  REQUIRE(Is(client.Answer(), 204, ""));
  const std::string type = "Lambda-Runtime-Function-Error-Type: Runtime.BeforeSnapshotError\r\n";
  REQUIRE(Is(client.Exchange(Post("init/error", "{\"errorMessage\":\"no\"}", type)), 202, "OK"));
  REQUIRE(before.recorder.init_error->type() == "Runtime.BeforeSnapshotError");
  REQUIRE(before.api->phase() == RuntimePhase::kFailed);

  Fixture after;
  Client other = after.Connect();
  other.Send(kRestoreNext);
  REQUIRE_FALSE(other.HasAnswer());
  REQUIRE(after.api->Restore(""));
  REQUIRE(Is(other.Answer(), 200, ""));
  REQUIRE(Is(other.Exchange(Post("restore/error", "{\"errorType\":\"X\"}")), 202, "OK"));
  REQUIRE(after.recorder.restore_error->type() == "X");
  REQUIRE(after.api->phase() == RuntimePhase::kFailed);
}

}  // namespace
}  // namespace hearth::agent
