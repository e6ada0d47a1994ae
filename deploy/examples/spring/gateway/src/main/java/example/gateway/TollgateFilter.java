package example.gateway;

import java.net.URI;
import java.time.Duration;
import java.util.List;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.cloud.gateway.filter.GatewayFilterChain;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.core.Ordered;
import org.springframework.http.HttpHeaders;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.http.server.reactive.ServerHttpRequest;
import org.springframework.http.server.reactive.ServerHttpResponse;
import org.springframework.stereotype.Component;
import org.springframework.web.reactive.function.client.WebClient;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Mono;

/** May this call go on? Asked before anything else; without an answer it may not. */
@Component
public class TollgateFilter implements GlobalFilter, Ordered {
    /** What a refusal tells the client. */
    private static final List<String> TOLD = List.of(
            HttpHeaders.CONTENT_TYPE,
            HttpHeaders.WWW_AUTHENTICATE,
            HttpHeaders.RETRY_AFTER,
            "RateLimit",
            "RateLimit-Policy",
            "DPoP-Nonce");

    private final WebClient tollgate;
    private final Duration timeout;
    private final List<String> identityHeaders;

    TollgateFilter(
            @Value("${tollgate.url}") String url,
            @Value("${tollgate.timeout}") Duration timeout,
            @Value("${tollgate.identity-headers}") List<String> identityHeaders) {
        this.tollgate = WebClient.create(url + "/forward-auth");
        this.timeout = timeout;
        this.identityHeaders = identityHeaders;
    }

    @Override
    public int getOrder() {
        return Ordered.HIGHEST_PRECEDENCE;
    }

    @Override
    public Mono<Void> filter(ServerWebExchange exchange, GatewayFilterChain chain) {
        return tollgate.get()
                .headers(question -> ask(exchange.getRequest(), question))
                .exchangeToMono(answer -> answer.toEntity(byte[].class))
                .timeout(timeout)
                .onErrorResume(failure -> Mono.just(ResponseEntity.status(HttpStatus.SERVICE_UNAVAILABLE)
                        .header(HttpHeaders.RETRY_AFTER, "1")
                        .build()))
                .flatMap(answer -> answer.getStatusCode().is2xxSuccessful()
                        ? chain.filter(identified(exchange, answer.getHeaders()))
                        : refuse(exchange.getResponse(), answer));
    }

    /** Tells of the call. What its caller wrote under these names is replaced. */
    private void ask(ServerHttpRequest call, HttpHeaders question) {
        question.addAll(call.getHeaders());
        List.of(HttpHeaders.HOST, HttpHeaders.CONTENT_LENGTH, HttpHeaders.TRANSFER_ENCODING, HttpHeaders.CONNECTION,
                        HttpHeaders.ACCEPT_ENCODING, "x-original-method", "x-original-uri", "x-forwarded-client-cert",
                        "x-original-content-length")
                .forEach(question::remove);
        URI uri = call.getURI();
        String query = uri.getRawQuery() == null ? "" : "?" + uri.getRawQuery();
        question.set("x-forwarded-method", call.getMethod().name());
        question.set("x-forwarded-uri", uri.getRawPath() + query);
        question.set("x-forwarded-host", call.getHeaders().getFirst(HttpHeaders.HOST));
        question.set("x-forwarded-proto", uri.getScheme());
        question.set("x-forwarded-for", call.getRemoteAddress().getAddress().getHostAddress());
        if (call.getHeaders().getContentLength() >= 0) {
            question.set("x-original-content-length", String.valueOf(call.getHeaders().getContentLength()));
        }
    }

    /** Tells the service who calls; nobody else may. */
    private ServerWebExchange identified(ServerWebExchange exchange, HttpHeaders answer) {
        return exchange.mutate().request(request -> request.headers(headers -> identityHeaders.forEach(name -> {
            headers.remove(name);
            String value = answer.getFirst(name);
            if (value != null && !value.isEmpty()) {
                headers.set(name, value);
            }
        }))).build();
    }

    private Mono<Void> refuse(ServerHttpResponse response, ResponseEntity<byte[]> answer) {
        response.setStatusCode(answer.getStatusCode());
        TOLD.forEach(name -> answer.getHeaders().getOrEmpty(name).forEach(value -> response.getHeaders().add(name, value)));
        byte[] body = answer.getBody() == null ? new byte[0] : answer.getBody();
        return response.writeWith(Mono.just(response.bufferFactory().wrap(body)));
    }
}
