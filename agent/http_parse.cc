// SPDX-License-Identifier: Apache-2.0
// The HTTP server's glue to http_parser, which does the parsing (RFC 9112).
#include <sys/socket.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/http_server.h"

namespace hearth::agent {
namespace {

constexpr size_t kMaxPathBytes = 2048;

HttpConnection* Connection(http_parser* parser) {
  return static_cast<HttpConnection*>(parser->data);
}

}  // namespace

const http_parser_settings* HttpServer::Settings() {
  static const http_parser_settings settings = [] {
    http_parser_settings s;
    http_parser_settings_init(&s);
    s.on_url = OnUrl;
    s.on_header_field = OnHeaderField;
    s.on_header_value = OnHeaderValue;
    s.on_headers_complete = OnHeadersComplete;
    s.on_body = OnBody;
    s.on_message_complete = OnMessageComplete;
    return s;
  }();
  return &settings;
}

void HttpServer::Parse(HttpConnection* connection, absl::string_view data) {
  const size_t parsed =
      http_parser_execute(&connection->parser_, Settings(), data.data(), data.size());
  const http_errno error = HTTP_PARSER_ERRNO(&connection->parser_);
  if (error == HPE_PAUSED) {
    // The end of a request: a byte that follows belongs to the next. Nothing more is read until
    // this one is answered, so this holds at most one read.
    connection->input_ = std::string(data.substr(parsed));
    MessageEnded(connection);
    return;
  }
  if (error != HPE_OK || connection->parser_.upgrade != 0) Reject(connection);
}

// Bytes that are no HTTP: the answer that stands, or else this one, as far as it can be sent; then
// hang up.
void HttpServer::Reject(HttpConnection* connection) {
  static constexpr absl::string_view kAnswer =
      "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  if (connection->responded_) {
    connection->keep_alive_ = false;
    connection->message_ended_ = true;
    return StartWriting(connection);
  }
  send(connection->socket_.get(), kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  connection->dead_ = true;
}

int HttpServer::OnUrl(http_parser* parser, const char* at, size_t length) {
  std::string& path = Connection(parser)->request_.path;
  if (path.size() + length > kMaxPathBytes) return 1;
  path.append(at, length);
  return 0;
}

// A header (or trailer) is complete when the next one or the body begins.
bool HttpServer::StoreHeader(HttpConnection* connection) {
  if (connection->field_.empty()) return true;
  if (++connection->header_count_ > kMaxHttpHeaders) return false;
  auto& headers = connection->phase_ == HttpConnection::Phase::kHeaders
                      ? connection->request_.headers
                      : connection->request_.trailers;
  headers[absl::AsciiStrToLower(connection->field_)] =
      std::string(absl::StripAsciiWhitespace(connection->value_));
  connection->field_.clear();
  connection->value_.clear();
  return true;
}

int HttpServer::OnHeaderField(http_parser* parser, const char* at, size_t length) {
  HttpConnection* const connection = Connection(parser);
  if (connection->in_value_ && !StoreHeader(connection)) return 1;
  connection->in_value_ = false;
  connection->field_bytes_ += length;
  if (connection->field_bytes_ > kMaxHttpFieldBytes) return 1;
  connection->field_.append(at, length);
  return 0;
}

int HttpServer::OnHeaderValue(http_parser* parser, const char* at, size_t length) {
  HttpConnection* const connection = Connection(parser);
  connection->in_value_ = true;
  connection->field_bytes_ += length;
  if (connection->field_bytes_ > kMaxHttpFieldBytes) return 1;
  connection->value_.append(at, length);
  return 0;
}

int HttpServer::OnHeadersComplete(http_parser* parser) {
  HttpConnection* const connection = Connection(parser);
  if (!StoreHeader(connection)) return -1;
  connection->in_value_ = false;
  HttpRequest& request = connection->request_;
  request.method = http_method_str(static_cast<http_method>(parser->method));
  request.chunked = (parser->flags & F_CHUNKED) != 0;
  if ((parser->flags & F_CONTENTLENGTH) != 0) request.content_length = parser->content_length;
  // An offer to speak another protocol, as Java's client makes for HTTP/2 with each request, may be
  // ignored (RFC 9110, 7.8).
  if (parser->method != HTTP_CONNECT) parser->upgrade = 0;
  connection->keep_alive_ = http_should_keep_alive(parser) != 0;
  connection->phase_ = HttpConnection::Phase::kBody;
  connection->server_->handler_->OnHeaders(connection);
  if (!connection->responded_ && absl::EqualsIgnoreCase(request.Header("expect"), "100-continue")) {
    // 25 bytes into an empty send buffer.
    static constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    send(connection->socket_.get(), kContinue.data(), kContinue.size(),
         MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  return 0;
}

int HttpServer::OnBody(http_parser* parser, const char* at, size_t length) {
  HttpConnection* const connection = Connection(parser);
  if (!connection->responded_) {
    connection->server_->handler_->OnBody(connection, absl::string_view(at, length));
  }
  return 0;
}

int HttpServer::OnMessageComplete(http_parser* parser) {
  HttpConnection* const connection = Connection(parser);
  if (!StoreHeader(connection)) return 1;
  http_parser_pause(parser, 1);
  return 0;
}

}  // namespace hearth::agent
