// SPDX-License-Identifier: Apache-2.0
// A small HTTP/1.1 server on loopback for the Runtime API. Its clients are the user's code and so
// hostile: connections, headers and unsent bytes are bounded, bodies are handed on piece by piece,
// and one request at a time is read from a connection.
#pragma once

#include <http_parser.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/event_loop.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

inline constexpr size_t kMaxHttpConnections = 32;
inline constexpr uint32_t kMaxHttpHeaderBytes = 16 * 1024;
inline constexpr size_t kMaxHttpHeaders = 64;
inline constexpr size_t kMaxHttpFieldBytes = 2 * kMaxHttpHeaderBytes;  // Headers and trailers.

struct HttpRequest {
  std::string method;
  std::string path;                             // As sent, with its query.
  std::map<std::string, std::string> headers;   // Names in lower case; the last of equal names.
  std::map<std::string, std::string> trailers;  // After a chunked body.
  bool chunked = false;
  std::optional<uint64_t> content_length;

  const std::string& Header(const std::string& name) const;  // Empty when absent.
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One client. Between OnMessageEnd and Respond nothing is read from it.
class HttpConnection {
 public:
  const HttpRequest& request() const { return request_; }

  // Answers the request, once; allowed from OnHeaders on. What is still to come of the request is
  // read and dropped first. `body` may be shared between answers.
  void Respond(int status, const HttpHeaders& headers, std::shared_ptr<const std::string> body);
  bool responded() const { return responded_; }

  // Stops and resumes reading the body: back-pressure to the client.
  void SetReading(bool reading);

 private:
  friend class HttpServer;
  enum class Phase { kHeaders, kBody, kWaiting, kWriting };

  UniqueFd socket_;
  class HttpServer* server_ = nullptr;
  http_parser parser_ = {};
  Phase phase_ = Phase::kHeaders;
  HttpRequest request_;
  std::string field_;
  std::string value_;
  bool in_value_ = false;
  size_t field_bytes_ = 0;
  size_t header_count_ = 0;
  std::string input_;  // Read but not parsed: the start of a next request.
  std::string head_;   // To be written, then body_.
  std::shared_ptr<const std::string> body_;
  size_t written_ = 0;
  bool responded_ = false;
  bool message_ended_ = false;
  bool keep_alive_ = true;
  bool reading_ = true;
  bool dead_ = false;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  virtual void OnHeaders(HttpConnection* connection) = 0;
  // Only while the request is not answered.
  virtual void OnBody(HttpConnection* connection, absl::string_view data) = 0;
  // The whole request is there. Respond now or later.
  virtual void OnMessageEnd(HttpConnection* connection) = 0;
  // The client ended its side in the middle of a request that was not answered; Respond may still
  // reach it, or not.
  virtual void OnTruncated(HttpConnection* connection) = 0;
  // The connection is gone, whatever it was doing; the pointer is invalid afterwards.
  virtual void OnClosed(HttpConnection* connection) = 0;
};

class HttpServer {
 public:
  // Listens on 127.0.0.1; port 0 takes a free one. `loop` and `handler` outlive the server.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(EventLoop* loop, uint16_t port,
                                                            HttpHandler* handler);
  ~HttpServer();
  uint16_t port() const { return port_; }
  void CloseAll();

 private:
  friend class HttpConnection;
  HttpServer(EventLoop* loop, HttpHandler* handler, UniqueFd listener)
      : loop_(loop), handler_(handler), listener_(std::move(listener)) {}

  void Accept();
  void OnEvents(HttpConnection* connection, uint32_t events);
  void Read(HttpConnection* connection);
  void Parse(HttpConnection* connection, absl::string_view data);
  void Reject(HttpConnection* connection);
  void MessageEnded(HttpConnection* connection);
  void StartWriting(HttpConnection* connection);
  void Write(HttpConnection* connection);
  void NextRequest(HttpConnection* connection);
  void UpdateWatch(HttpConnection* connection);
  void Close(HttpConnection* connection);

  static int OnUrl(http_parser* parser, const char* at, size_t length);
  static int OnHeaderField(http_parser* parser, const char* at, size_t length);
  static int OnHeaderValue(http_parser* parser, const char* at, size_t length);
  static int OnHeadersComplete(http_parser* parser);
  static int OnBody(http_parser* parser, const char* at, size_t length);
  static int OnMessageComplete(http_parser* parser);
  static bool StoreHeader(HttpConnection* connection);
  static const http_parser_settings* Settings();

  EventLoop* const loop_;
  HttpHandler* const handler_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  bool accepting_ = false;
  std::map<int, std::unique_ptr<HttpConnection>> connections_;
};

}  // namespace hearth::agent
